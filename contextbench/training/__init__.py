"""The training loop and what it shares: losses, class weights, processes."""
