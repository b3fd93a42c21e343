"""Faces: protocols of existing programs, in front of a mount's devices.

A face is a process of the user's. It reaches the keys only through the mount, as any program of that user does: the
daemon decides which devices it may use, and computes.
"""
