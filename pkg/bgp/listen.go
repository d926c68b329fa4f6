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
// end may have sent already. And if a session is pinned by its device, it lets
// nobody connect through another one. GoBGP keeps its listeners to itself, so
// they are found among the open files.
func guardListeners(cfg SpeakerConfig, listening []netip.AddrPort) error {
	if len(listening) == 0 {
		return nil
	}
	least := 255
	if len(cfg.Peers) == 0 || slices.ContainsFunc(cfg.Peers, func(p Peer) bool { return !p.TTLSecurity }) {
		least = 0
	}
	fds, err := listeners(listening)
	var errs []error
	for fd, local := range fds {
		level, option := unix.IPPROTO_IP, unix.IP_MINTTL
		if local.Addr().Is6() {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT
		}
		errs = append(errs, os.NewSyscallError("set lowest TTL", unix.SetsockoptInt(fd, level, option, least)))
		if device := deviceOf(cfg); device != "" {
			errs = append(errs, bindToDevice(fd, device))
		}
	}
	return errors.Join(append(errs, err)...)
}

// listeners finds the listeners among the open files.
func listeners(listening []netip.AddrPort) (map[int]netip.AddrPort, error) {
	fds, err := openFiles()
	if err != nil {
		return nil, fmt.Errorf("find listeners: %w", err)
	}
	out := map[int]netip.AddrPort{}
	for _, fd := range fds {
		on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if err != nil || on == 0 {
			continue
		}
		local, err := unix.Getsockname(fd)
		if err != nil {
			continue
		}
		for _, l := range listening {
			if netip.AddrPortFrom(l.Addr().WithZone(""), l.Port()) == addrPort(local) {
				out[fd] = l
			}
		}
	}
	return out, nil
}

// deleteKey takes the MD5 key of a peer off the listeners.
func deleteKey(peer netip.Addr, listening []netip.AddrPort) error {
	fds, err := listeners(listening)
	errs := []error{err}
	for fd, local := range fds {
		if local.Addr().Is4() != peer.Is4() {
			continue
		}
		key := &unix.TCPMD5Sig{} // a key of no octets deletes
		key.Addr.Family = unix.AF_INET
		at := key.Addr.Data[2:] // after the port
		if peer.Is6() {
			key.Addr.Family, at = unix.AF_INET6, key.Addr.Data[6:] // after port and flow
		}
		copy(at, peer.AsSlice())
		if err := unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, key); !errors.Is(err, unix.ENOENT) {
			errs = append(errs, os.NewSyscallError("delete key", err))
		}
	}
	return errors.Join(errs...)
}

// staleBinding tells whether a listener is bound to another device than a new
// one would be: the kernel binds by index, and an interface that is deleted and
// made again has a new one. It judges only what peers need now, and only if the
// device is there.
func staleBinding(cfg SpeakerConfig, listening []netip.AddrPort) bool {
	if len(cfg.Peers) == 0 || len(listening) == 0 {
		return false
	}
	fds, err := listeners(listening)
	if err != nil {
		return false // the next look will tell
	}
	for fd, local := range fds {
		bound, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
		if err != nil || bound == 0 {
			continue
		}
		name := local.Addr().Zone() // binds by itself
		if name == "" {
			name = deviceOf(cfg)
		}
		if name == "" {
			return true // nobody needs it any more
		}
		if device, err := net.InterfaceByName(name); err == nil && device.Index != bound {
			return true
		}
	}
	return false
}

// deviceOf is the device that pins a session of the speaker; empty if TTLs pin
// them all.
func deviceOf(cfg SpeakerConfig) string {
	for _, p := range cfg.Peers {
		if p.Interface != "" {
			return p.Interface
		}
	}
	return ""
}

// bindToDevice makes a listener take connections through the device only; they
// stay bound to it. A second binding would need CAP_NET_RAW (socket(7)).
func bindToDevice(fd int, device string) error {
	bound, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	if err != nil || bound != 0 {
		return os.NewSyscallError("read device of listener", err)
	}
	return os.NewSyscallError("bind listener to "+device, unix.BindToDevice(fd, device))
}

// hangUp ends all connections between two addresses. A connection that arrives
// while GoBGP deletes its peer can be forgotten without being closed, and the
// router would wait on it for minutes.
func hangUp(local, remote netip.Addr) error {
	return eachConnection(local, remote, func(fd int) {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // fails only if it has ended already
	})
}

// anyTTL lifts the lowest TTL that the connections between two addresses take,
// which GoBGP leaves.
func anyTTL(local, remote netip.Addr) error {
	level, option := unix.IPPROTO_IP, unix.IP_MINTTL
	if remote.Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT
	}
	return setConnections(local, remote, level, option, 0)
}

// limitTTL sets the TTL of the connections of a peer that is not on the link,
// where GoBGP does not: that of internal peers and of those of any external AS.
func (s *Speaker) limitTTL(p Peer) {
	s.smu.Lock()
	internal := p.internal(s.asn)
	s.smu.Unlock()
	if p.MultihopTTL == 0 || !internal && !p.External {
		return
	}
	level, option := unix.IPPROTO_IP, unix.IP_TTL
	if p.Address.Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	if err := setConnections(p.LocalAddress, p.Address, level, option, int(p.MultihopTTL)); err != nil {
		s.log.Warn("TTL cannot be limited", "peer", p.Address, "error", err)
	}
}

// setConnections sets an option of the connections between two addresses.
func setConnections(local, remote netip.Addr, level, option, value int) error {
	var failed error
	err := eachConnection(local, remote, func(fd int) {
		failed = errors.Join(failed, os.NewSyscallError("set TTL", unix.SetsockoptInt(fd, level, option, value)))
	})
	return errors.Join(err, failed)
}

// eachConnection calls fn with the connections between two addresses.
func eachConnection(local, remote netip.Addr, fn func(fd int)) error {
	fds, err := openFiles()
	if err != nil {
		return fmt.Errorf("find connections: %w", err)
	}
	for _, fd := range fds {
		to, err := unix.Getpeername(fd)
		if err != nil || addrPort(to).Addr() != remote.WithZone("") {
			continue
		}
		if from, err := unix.Getsockname(fd); err == nil && addrPort(from).Addr() == local.WithZone("") {
			fn(fd)
		}
	}
	return nil
}

func openFiles() ([]int, error) {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	fds := make([]int, 0, len(files))
	for _, f := range files {
		if fd, err := strconv.Atoi(f.Name()); err == nil {
			fds = append(fds, fd)
		}
	}
	return fds, nil
}

// addrPort is the zero value for what is no IP address.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch v := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(v.Addr), uint16(v.Port)) //nolint:gosec // a port
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(v.Addr), uint16(v.Port)) //nolint:gosec // a port
	}
	return netip.AddrPort{}
}

// noteZones remembers which devices the zones of addresses mean.
func (s *Speaker) noteZones(cfg SpeakerConfig) {
	for _, p := range cfg.Peers {
		zone := p.Address.Zone()
		if zone == "" || s.zones[zone] != 0 {
			continue
		}
		if device, err := net.InterfaceByName(zone); err == nil {
			s.zones[zone] = device.Index
		}
	}
}

// staleZone tells whether a zone means another device than when it was first
// seen: the standard library remembers that for a minute, so GoBGP would dial
// through one that is gone.
func (s *Speaker) staleZone(cfg SpeakerConfig) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(cfg.Peers, func(p Peer) bool {
		known := s.zones[p.Address.Zone()]
		if known == 0 {
			return false
		}
		device, err := net.InterfaceByName(p.Address.Zone())
		return err == nil && device.Index != known
	})
}

// NeedsRestart tells whether a new process would serve the wanted configuration
// better: the port has changed, an address that should be listened on is not
// and could be now, or a listener or an address belongs to a device that was made
// anew; and no session would be lost. GoBGP cannot add a listener to a running server, and
// without CAP_NET_RAW nobody binds a socket a second time (socket(7)).
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
	if staleBinding(cfg, have) || s.staleZone(cfg) {
		return true
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
