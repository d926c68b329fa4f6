package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/ndp"

	"golang.org/x/sys/unix"
)

// firstFreePort is the first TCP port that every user may listen on, unless the
// sysctl says otherwise (ip(7), ip_unprivileged_port_start).
const (
	firstFreePort       = 1024
	firstFreePortSysctl = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
)

var errNoNetAdmin = errors.New("the capability CAP_NET_ADMIN is missing, without which the kernel lets it change no address, route or rule: " +
	"run it as root, with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_BIND_SERVICE in the systemd unit, or with docker run --cap-add NET_ADMIN")

// requireCapabilities returns an error when this process may not do its work at
// all, and warns when it may not listen for routers.
func requireCapabilities(cfg *config.Config, logger *slog.Logger) error {
	have, err := effectiveCapabilities()
	if err != nil {
		return err
	}
	if !have(unix.CAP_NET_ADMIN) {
		return errNoNetAdmin
	}
	if port := cfg.BGP.ListenPort; port > 0 && port < freePorts() && !have(unix.CAP_NET_BIND_SERVICE) {
		logger.Warn("capability CAP_NET_BIND_SERVICE is missing: routers may not be able to connect to this host",
			"listen_port", port, "remedy", "AmbientCapabilities=CAP_NET_BIND_SERVICE, --cap-add NET_BIND_SERVICE, or bgp.listen_port 1024 or above")
	}
	return requireSockets(cfg)
}

// requireSockets returns an error when the configuration needs sockets that this
// process may not open.
func requireSockets(cfg *config.Config) error {
	if err := requireICMP(cfg, health.ICMPPermitted); err != nil {
		return err
	}
	return requireNDP(cfg, ndp.Permitted)
}

// requireNDP returns an error when the configuration has an unnumbered peer and
// this process may not look for routers.
func requireNDP(cfg *config.Config, permitted func() error) error {
	for i := range cfg.Interfaces {
		for j := range cfg.Interfaces[i].Peers {
			if !cfg.Interfaces[i].Peers[j].Unnumbered {
				continue
			}
			if err := permitted(); err != nil {
				return fmt.Errorf("interfaces[%d].peers[%d].unnumbered: %w", i, j, err)
			}
			return nil
		}
	}
	return nil
}

// requireICMP returns an error when the configuration needs echo requests and
// this process may not send them. It names the first key that does.
func requireICMP(cfg *config.Config, permitted func() error) error {
	key := icmpKey(cfg)
	if key == "" {
		return nil
	}
	if err := permitted(); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// icmpKey is the path of the first key that needs echo requests, empty for none.
func icmpKey(cfg *config.Config) string {
	for i := range cfg.Interfaces {
		if cfg.Interfaces[i].PathProbe != nil {
			return fmt.Sprintf("interfaces[%d].path_probe", i)
		}
	}
	for i := range cfg.VIPs {
		for j := range cfg.VIPs[i].Checks {
			if cfg.VIPs[i].Checks[j].ICMP != nil {
				return fmt.Sprintf("vips[%d].checks[%d].icmp", i, j)
			}
		}
	}
	return ""
}

// freePorts returns the first port for which no capability is needed.
func freePorts() int {
	data, err := os.ReadFile(firstFreePortSysctl)
	if err != nil {
		return firstFreePort
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return firstFreePort
	}
	return n
}

// effectiveCapabilities returns a function that tells whether this process has
// a capability in effect (capabilities(7)).
func effectiveCapabilities() (func(capability uint) bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return nil, fmt.Errorf("read own capabilities: %w", err)
	}
	return func(c uint) bool { return data[c/32].Effective&(1<<(c%32)) != 0 }, nil
}
