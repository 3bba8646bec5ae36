"""One sandbox as the viewer sees it: worker, streams, programs."""
