"""What a record mounts in its sandbox, and which images are its disks."""
