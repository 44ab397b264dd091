"""What a program without this project would look like: the same work in a plain loop, and inside two frameworks."""
