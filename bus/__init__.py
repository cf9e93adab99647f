"""The contract and the road: what publishers and subscribers agree on."""
