"""What travels between the rooms: frozen values that serialise."""
