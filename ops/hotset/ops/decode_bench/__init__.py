"""`hotset bench decode`: whole decode steps with the KV in GPU memory, tiered, and tiered with too little of it."""
