# The image of the daemon: one static binary, run as an ordinary user.
#
#   docker build -t vipspeaker .
#   install -d -o 65532 -g 65532 /run/vipspeaker
#   docker run -d --name vipspeaker --network host \
#     --cap-add NET_ADMIN --cap-add NET_BIND_SERVICE \
#     -v /etc/vipspeaker:/etc/vipspeaker:ro -v /run/vipspeaker:/run/vipspeaker vipspeaker
#
# Short BFD sessions, such as 10ms × 3, stay up on a busy host with
# --cap-add SYS_NICE.
#
# The state directory is the host's, so that the next container takes over what
# the last one left, and knows the former values of settings. The container's
# user 65532 must own it. It is gone after a reboot, as is what it tells about:
# "d /run/vipspeaker 0755 65532 65532" in /etc/tmpfiles.d makes it again.
#
# Docker mounts /proc/sys read-only: "docker exec vipspeaker vipspeaker status"
# names the settings that are then left to be set on the host.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# The file carries the three capabilities, so that a user who is not root gets
# those of --cap-add.
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w -X main.version=$VERSION" -o /out/vipspeaker ./cmd/vipspeaker \
 && /out/vipspeaker file-capabilities /out/vipspeaker \
 && mkdir /out/run

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /out/run /run/vipspeaker
# Orders such as drains, which outlive the container if this is the host's.
COPY --from=build --chown=65532:65532 /out/run /var/lib/vipspeaker
COPY --from=build /out/vipspeaker /usr/bin/vipspeaker
# BuildKit copies a file with its capabilities and this does nothing; Docker's
# classic builder loses them and this writes them again.
RUN ["/usr/bin/vipspeaker", "file-capabilities", "/usr/bin/vipspeaker"]
USER 65532:65532
ENTRYPOINT ["/usr/bin/vipspeaker"]
CMD ["run"]
