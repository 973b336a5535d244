"""Response: does the world do what it was told?"""
