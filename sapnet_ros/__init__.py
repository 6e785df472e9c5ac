"""The ROS 2 package around SAPNet."""
