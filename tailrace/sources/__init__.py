"""AWS: boto3 lives in this package only. It knows nothing of the warehouse."""
