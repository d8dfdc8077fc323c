"""The command ``edge-hands``: one short module for each verb, registered in ``main``."""
