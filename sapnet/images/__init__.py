"""Images in every form they arrive in, and the one form the network takes."""
