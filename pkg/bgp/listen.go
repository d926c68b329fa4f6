package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// bindable returns the listen addresses on which a listener can be opened now,
// and why the others cannot. It is empty when the configuration does not listen.
func bindable(ctx context.Context, cfg SpeakerConfig) ([]netip.Addr, error) {
	if cfg.ListenPort == 0 {
		return nil, nil
	}
	var usable []netip.Addr
	var errs []error
	for _, a := range cfg.ListenAddresses {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(a.String(), strconv.Itoa(cfg.ListenPort)))
		if err != nil {
			errs = append(errs, fmt.Errorf("speaker %s: %w", cfg.Name, err))
			continue
		}
		if err := l.Close(); err != nil {
			errs = append(errs, fmt.Errorf("speaker %s: %w", cfg.Name, err))
			continue
		}
		usable = append(usable, a)
	}
	return usable, errors.Join(errs...)
}

// NeedsRestart tells whether a new process would serve the wanted configuration
// better: an address that should be listened on is not, could be now, and no
// session would be lost. GoBGP cannot add a listener to a running server.
func (s *Speaker) NeedsRestart(ctx context.Context) bool {
	s.mu.Lock()
	cfg, have := s.cfg, s.listening
	s.mu.Unlock()
	if s.server.Load() == nil || cfg.ListenPort == 0 || s.anyEstablished() {
		return false
	}
	missing := slices.DeleteFunc(slices.Clone(cfg.ListenAddresses), func(a netip.Addr) bool { return slices.Contains(have, a) })
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
