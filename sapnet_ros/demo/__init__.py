"""The demo: a camera in synthetic rain, derain_node and a recorder over DDS."""
