"""What gunicorn needs to be behind a proxy that keeps its connections."""

# Workers of the default class close the connection after each answer, and one slow request holds up a worker.
worker_class = "gthread"
workers = 1
threads = 8

# Longer than the proxy keeps an idle connection (`pool.idle_timeout`): who closes first is the proxy, and no
# request meets the close on its way. The default is 2 s.
keepalive = 75

# After TERM, requests that run have this long. A server that was drained has none.
graceful_timeout = 30

# A worker that waits for a file on a slow disk is not a hung one.
worker_tmp_dir = "/dev/shm"
