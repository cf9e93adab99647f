"""The clearml sink: live into a server, or offline into session folders."""
