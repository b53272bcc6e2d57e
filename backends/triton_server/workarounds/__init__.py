"""What stands against faults of Triton, together, so that it can be taken out with the fault.

`faults.FAULTS` says of each what it is, who reported it, what stands against it, and which test notices when it has
gone.
"""
