package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// bindable returns the listen addresses on which a listener can be opened now,
// and why the others cannot. It is empty when the configuration does not listen.
func bindable(ctx context.Context, cfg SpeakerConfig) ([]netip.AddrPort, error) {
	if cfg.ListenPort == 0 {
		return nil, nil
	}
	var usable []netip.AddrPort
	var errs []error
	for _, a := range cfg.ListenAddresses {
		var lc net.ListenConfig
		at := listenAddr(cfg, a)
		l, err := lc.Listen(ctx, "tcp", at.String())
		if err != nil {
			errs = append(errs, fmt.Errorf("speaker %s: %w", cfg.Name, err))
			continue
		}
		if err := l.Close(); err != nil {
			errs = append(errs, fmt.Errorf("speaker %s: %w", cfg.Name, err))
			continue
		}
		usable = append(usable, at)
	}
	return usable, errors.Join(errs...)
}

func listenAddr(cfg SpeakerConfig, a netip.Addr) netip.AddrPort {
	return netip.AddrPortFrom(a, uint16(cfg.ListenPort)) //nolint:gosec // checked to be a port
}

// guardListeners makes the kernel drop what comes from more than one hop away
// before GoBGP sees it, if all peers promise TTL 255 (GTSM, RFC 5082). GoBGP
// itself asks for that only after it has accepted a connection, when the other
// end may have sent already. It keeps its listeners to itself, so they are found
// among the open files.
func guardListeners(cfg SpeakerConfig, listening []netip.AddrPort) error {
	if len(listening) == 0 {
		return nil
	}
	least := 255
	if len(cfg.Peers) == 0 || slices.ContainsFunc(cfg.Peers, func(p Peer) bool { return !p.TTLSecurity }) {
		least = 0
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("find listeners: %w", err)
	}
	var errs []error
	for _, f := range files {
		fd, err := strconv.Atoi(f.Name())
		if err != nil {
			continue
		}
		on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if err != nil || on == 0 {
			continue
		}
		local, err := unix.Getsockname(fd)
		if err != nil {
			continue
		}
		switch v := local.(type) {
		case *unix.SockaddrInet4:
			if slices.Contains(listening, netip.AddrPortFrom(netip.AddrFrom4(v.Addr), uint16(v.Port))) { //nolint:gosec // a port
				errs = append(errs, os.NewSyscallError("set lowest TTL", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MINTTL, least)))
			}
		case *unix.SockaddrInet6:
			if slices.Contains(listening, netip.AddrPortFrom(netip.AddrFrom16(v.Addr), uint16(v.Port))) { //nolint:gosec // a port
				errs = append(errs, os.NewSyscallError("set lowest hop limit", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, least)))
			}
		}
	}
	return errors.Join(errs...)
}

// NeedsRestart tells whether a new process would serve the wanted configuration
// better: the port has changed, or an address that should be listened on is not
// and could be now, and no session would be lost. GoBGP cannot add a listener to a running server.
func (s *Speaker) NeedsRestart(ctx context.Context) bool {
	s.mu.Lock()
	cfg, have := s.cfg, s.listening
	s.mu.Unlock()
	if s.server.Load() == nil || s.anyEstablished() {
		return false
	}
	if slices.ContainsFunc(have, func(a netip.AddrPort) bool { return int(a.Port()) != cfg.ListenPort }) {
		return true // listens on a port that is not wanted any more
	}
	missing := slices.DeleteFunc(slices.Clone(cfg.ListenAddresses), func(a netip.Addr) bool { return slices.Contains(have, listenAddr(cfg, a)) })
	cfg.ListenAddresses = missing
	usable, _ := bindable(ctx, cfg) // what cannot be listened on yet is no reason
	return len(usable) > 0
}

func (s *Speaker) anyEstablished() bool {
	s.smu.Lock()
	defer s.smu.Unlock()
	for _, rec := range s.sessions {
		if rec.state == Established {
			return true
		}
	}
	return false
}
