"""What others hand in: archives of images, which are judged here and join a board."""
