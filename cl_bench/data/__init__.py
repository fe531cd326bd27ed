"""Images, and the tasks they are cut into."""
