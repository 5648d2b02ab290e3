# The recorder as a container, with lessons.py for what lies on its disk. docs/deploy.md says how to run both.
# Two stages: the first installs, the second holds Python, the installed packages and the program. All packages come
# as wheels (x86-64 and ARM64), so there is no compiler anywhere, and nothing from apt.

FROM python:3.14-slim-trixie AS builder

WORKDIR /app
COPY requirements.txt ./
RUN python -m venv --without-pip /venv \
 && python -m pip --python /venv/bin/python install \
        --no-cache-dir --no-compile --only-binary=:all: --require-hashes -r requirements.txt

# Which modules there are is said once, in .dockerignore.
COPY . ./
# Compiled here because the recorder may not write to these folders: it would compile everything anew at each start.
RUN rm requirements.txt && /venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /venv/lib /app


FROM python:3.14-slim-trixie

# The base image comes without compiled bytecode; the health check would compile its imports every half minute.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip \
 && rm -rf /usr/local/lib/python3.*/ensurepip \
 && python -m compileall -q -j 0 -x 'idlelib|lib2to3|pydoc_data|tkinter|turtledemo' /usr/local/lib/python3.* \
 && groupadd --gid 10001 recorder \
 && useradd --uid 10001 --gid recorder --home-dir /app --no-create-home --shell /usr/sbin/nologin recorder \
 && install -d -m 0700 -o recorder -g recorder /data /data/segments

# Just runs the command; started as root, it first hands the output folder over to the recorder and gives root up for
# good. For hosts whose disks belong to root (Render, Railway). Where root may not do that, it stays root.
RUN printf '%s\n' \
        '#!/bin/sh' \
        'as="setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs"' \
        'if [ "$(id -u)" = 0 ] && $as true; then' \
        '    folder=${OUTPUT_DIR:-/data/segments}' \
        '    mkdir -p "$folder"' \
        '    [ "$(stat -c %u "$folder")" = 10001 ] || { chown -R 10001:10001 "$folder" && chmod 0700 "$folder"; }' \
        '    exec $as "$@"' \
        'fi' \
        'exec "$@"' \
        > /usr/local/bin/as-recorder \
 && chmod 0755 /usr/local/bin/as-recorder

COPY --from=builder /venv /venv
COPY --from=builder /app /app

# No VOLUME line: Railway refuses it. Mount a volume at /data, or the recordings go with the container.
# Working there, OUTPUT_DIR=./segments of a copied .env means the volume, too.
WORKDIR /data
ENV PATH=/venv/bin:$PATH \
    HOME=/app \
    PYTHONUNBUFFERED=1 \
    OUTPUT_DIR=/data/segments

# 0 where the host mounts the disk for root: as-recorder then gives root up.
ARG START_USER=10001
USER ${START_USER}

# SIGTERM reaches Python directly: exec form, and as-recorder replaces itself.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-IS", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('HEALTH_PORT') or 8081), timeout=4); c.request('GET', '/'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["/usr/local/bin/as-recorder"]
CMD ["python", "/app/agent.py", "start"]
