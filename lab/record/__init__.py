"""What a run leaves on disk. `Record` is for the loop; what only reads records imports its modules, without torch."""
