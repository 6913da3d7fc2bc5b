"""Turns and speakers of conversations in the formats that chats and meetings are kept in."""
