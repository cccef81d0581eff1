"""The models that can be exported: one folder per architecture, and a registry that picks the right one."""
