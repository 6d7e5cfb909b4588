"""Write files safely: whole or not at all, and never over the files of a user."""
