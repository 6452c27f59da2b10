#!/bin/sh
# Makes the secrets and the certificate that docker-compose.yml mounts, once: what exists is left as it is.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
make() {
    [ -s "secrets/$1" ] || { cat > "secrets/$1.new" && mv "secrets/$1.new" "secrets/$1"; }
}
openssl rand 32 | make jwt.key
openssl rand -hex 32 | make service-tokens
openssl rand -hex 32 | make link.token
openssl rand -hex 24 | tr -d '\n' | make postgres.password
printf 'postgres://tidegate:%s@postgres:5432/tidegate' "$(cat secrets/postgres.password)" | make postgres.url
if [ ! -s secrets/tls.key ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout secrets/tls.key -out secrets/tls.crt 2>/dev/null
fi
# Compose mounts them as they are, and the containers' users are not you: tidegate is 10001, nginx and postgres begin as root.
if [ "$(id -u)" = 0 ]; then
    chgrp 10001 secrets/jwt.key secrets/service-tokens secrets/link.token secrets/postgres.url secrets/postgres.password
    chmod 0640 secrets/jwt.key secrets/service-tokens secrets/link.token secrets/postgres.url secrets/postgres.password
else
    chmod 0644 secrets/jwt.key secrets/service-tokens secrets/link.token secrets/postgres.url secrets/postgres.password
    echo "secrets/ is yours alone, the files in it can be read by the containers' users" >&2
fi
