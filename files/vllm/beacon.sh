#!/bin/sh
# Tell another host of the group the state of this one's part: one answer, then the connection is closed.
# Written by metalserve (roles/vllm); started by metalserve-vllm-beacon.socket for each connection.
LC_ALL=C; export LC_ALL
. "$(dirname "$0")/engine-group"
while IFS= read -r line; do
  [ "$(printf '%s' "$line" | tr -d '\r')" ] || break
done
printf 'HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n'
group_state
