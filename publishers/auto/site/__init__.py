"""Not a package to import: the folder that ``trainbus run`` puts in front of PYTHONPATH."""
