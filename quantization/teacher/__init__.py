"""Labels real photographs with a teacher: MediaPipe Hands, which runs in an environment of its own."""
