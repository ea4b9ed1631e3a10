"""Outbound webhooks; today the address guard every outbound request obeys."""
