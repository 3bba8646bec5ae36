"""What each fork server imports: its children's code, and how it forks them."""
