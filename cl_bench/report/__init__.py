"""Many runs -> one page: reads results.json files and compares methods. No torch, Lightning or Hydra in here."""
