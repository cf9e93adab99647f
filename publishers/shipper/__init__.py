"""The shipper: from the journals of a node to the broker."""
