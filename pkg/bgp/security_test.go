package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// socketTo finds this process's connected socket from local to remote and
// returns its TTL, the lowest TTL that it takes, and its device.
func socketTo(t *testing.T, local, remote netip.Addr) (ttl, minTTL int, device string) {
	t.Helper()
	fds, err := openFiles()
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		from, err1 := unix.Getsockname(fd)
		to, err2 := unix.Getpeername(fd)
		if err1 != nil || err2 != nil || addrPort(from).Addr() != local || addrPort(to).Addr() != remote {
			continue
		}
		level, opt, minOpt := unix.IPPROTO_IP, unix.IP_TTL, unix.IP_MINTTL
		if local.Is6() {
			level, opt, minOpt = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_MINHOPCOUNT
		}
		ttl, err1 = unix.GetsockoptInt(fd, level, opt)
		minTTL, err2 = unix.GetsockoptInt(fd, level, minOpt)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		device, err = unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
		if err != nil {
			t.Fatal(err)
		}
		return ttl, minTTL, strings.TrimRight(device, "\x00")
	}
	t.Fatalf("no socket from %s to %s", local, remote)
	return 0, 0, ""
}

func setTTL(ttl int) func(int) error {
	return func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, ttl) }
}

func setKey(remote netip.Addr, key string) func(int) error {
	return func(fd int) error { return setAnyKey(fd, remote, key) }
}

func setAnyKey(fd int, remote netip.Addr, key string) error {
	sig := &unix.TCPMD5Sig{Keylen: uint16(len(key))}
	sig.Addr.Family = unix.AF_INET
	at := sig.Addr.Data[2:]
	if remote.Is6() {
		sig.Addr.Family, at = unix.AF_INET6, sig.Addr.Data[6:]
	}
	copy(at, remote.AsSlice())
	copy(sig.Key[:], key)
	return unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, sig)
}

// Every session is pinned to its interface, whoever made the connection.
func TestSessionsArePinned(t *testing.T) {
	tests := []struct {
		name        string
		asn         uint32
		security    bool
		passive     bool
		ttl, minTTL int
		device      string
	}{
		{"external, we dial", 65001, false, false, 1, 0, ""},
		{"external, router dials", 65001, false, true, 1, 0, ""},
		{"gtsm, we dial", 65001, true, false, 255, 255, ""},
		{"gtsm, router dials", 65001, true, true, 255, 255, ""},
		{"internal, we dial", 65010, false, false, 64, 0, "lo"},
		{"internal gtsm, we dial", 65010, true, false, 255, 255, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			host, router := addr(t), addr(t)
			s := startSpeaker(t, SpeakerOptions{})
			p := peer(router, tt.asn)
			p.TTLSecurity, p.Interface = tt.security, "lo"
			apply(t, s, conf("en1", 65010, host, p))
			if tt.passive {
				dialRaw(t, router, host, tt.asn, rawOptions{control: setTTL(255)})
			} else {
				acceptRaw(t, router, tt.asn, rawOptions{control: setTTL(255)})
			}
			awaitEstablished(t, s, router)
			ttl, minTTL, device := socketTo(t, host, router)
			if ttl != tt.ttl || minTTL != tt.minTTL || device != tt.device {
				t.Errorf("TTL %d, at least %d, device %q; want %d, %d, %q", ttl, minTTL, device, tt.ttl, tt.minTTL, tt.device)
			}
		})
	}
}

// What comes from farther away than one hop does not even reach GoBGP, and does
// again when a peer without GTSM joins.
func TestGTSMRefusesDistantPeer(t *testing.T) {
	host, near, far := addr(t), addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	p, q := peer(near, 65001), peer(far, 65002)
	p.TTLSecurity = true
	cfg := conf("en1", 65010, host, p)
	apply(t, s, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := connect(ctx, near, host, setTTL(254)); err == nil {
		t.Error("a peer with TTL 254 could connect")
	}
	dialRaw(t, near, host, 65001, rawOptions{control: setTTL(255)})
	awaitEstablished(t, s, near)
	q.LocalAddress = host
	cfg.Peers = append(cfg.Peers, q)
	apply(t, s, cfg)
	dialRaw(t, far, host, 65002, rawOptions{})
	awaitEstablished(t, s, far)
}

func TestMD5(t *testing.T) {
	for _, passive := range []bool{false, true} {
		t.Run(fmt.Sprintf("router dials %v", passive), func(t *testing.T) {
			host, router := addr(t), addr(t)
			s := startSpeaker(t, SpeakerOptions{})
			p := peer(router, 65001)
			p.Password = "sesame"
			cfg := conf("en1", 65010, host, p)
			if !passive {
				cfg.ListenPort = 0
			}
			apply(t, s, cfg)
			if passive {
				ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
				defer cancel()
				for _, control := range []func(int) error{nil, setKey(host, "wrong")} {
					if _, err := connect(ctx, router, host, control); err == nil {
						t.Fatal("connected without the right key")
					}
				}
				dialRaw(t, router, host, 65001, rawOptions{control: setKey(host, "sesame")})
			} else {
				acceptRaw(t, router, 65001, rawOptions{control: setKey(host, "sesame")})
			}
			awaitEstablished(t, s, router)
			if e := s.State().Error; e != "" {
				t.Errorf("error: %s", e)
			}
			// Without a password again, a plain connection must do: the key may
			// not stay behind on the listener.
			if passive {
				cfg.Peers[0].Password = ""
				apply(t, s, cfg)
				dialRaw(t, router, host, 65001, rawOptions{})
				awaitEstablished(t, s, router)
			}
		})
	}
}

// The key of a peer that was removed does not lock its successor out.
func TestMD5KeyGoesWithItsPeer(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	p := peer(router, 65001)
	p.Password = "sesame"
	cfg := conf("en1", 65010, host, p)
	apply(t, s, cfg)
	raw := dialRaw(t, router, host, 65001, rawOptions{control: setKey(host, "sesame")})
	awaitEstablished(t, s, router)
	cfg.Peers, cfg.DownReason = nil, "link down"
	apply(t, s, cfg)
	if got := raw.await(patience, hasPrefix("notification")); got[0] != "notification 6/2 link down" {
		t.Errorf("messages %q", got)
	}
	p.Password, p.LocalAddress = "", host
	cfg.Peers = []Peer{p}
	apply(t, s, cfg)
	dialRaw(t, router, host, 65001, rawOptions{})
	awaitEstablished(t, s, router)
}

// A passive session is possible only to the configured local address.
func TestOtherLocalAddressIsRefused(t *testing.T) {
	host, other, router := addr(t), addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(router, 65001))
	cfg.ListenAddresses = append(cfg.ListenAddresses, other)
	apply(t, s, cfg)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := tryRaw(ctx, t, router, other, 65001, rawOptions{}); err == nil {
		t.Error("session on another local address")
	}
	dialRaw(t, router, host, 65001, rawOptions{})
}

// An address that cannot be listened on is reported and costs only itself.
func TestListenAddressInUse(t *testing.T) {
	host, free, router := addr(t), addr(t), addr(t)
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", tcpAddr(host, testPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	s := startSpeaker(t, SpeakerOptions{})
	p := peer(router, 65001)
	cfg := conf("en1", 65010, free, p)
	cfg.ListenAddresses = append(cfg.ListenAddresses, host)
	apply(t, s, cfg)
	if e := s.State().Error; !strings.Contains(e, host.String()) || !strings.Contains(e, "address already in use") {
		t.Errorf("error is %q", e)
	}
	if s.NeedsRestart(context.Background()) {
		t.Error("a restart would not help yet")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if !s.NeedsRestart(context.Background()) {
		t.Error("a restart would help now")
	}
	dialRaw(t, router, free, 65001, rawOptions{})
	awaitEstablished(t, s, router)
	if s.NeedsRestart(context.Background()) {
		t.Error("a restart would cost a session")
	}
}

func setHops(hops int) func(int) error {
	return func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hops) }
}

// A router whose connection falls together with the end of a session is hung up
// on, and not left waiting for an OPEN.
func TestNoConnectionIsForgotten(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	s.timing.flapMax = 0
	apply(t, s, conf("en1", 65010, host, peer(router, 65001)))
	for n, end := 0, time.Now().Add(2*time.Second); time.Now().Before(end); n++ {
		conn, err := connect(t.Context(), router, host, nil)
		if err != nil {
			continue
		}
		if n%3 == 0 {
			// Less than openWait, after which it is given up in any case.
			if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("connection %d is open and silent", n)
			}
		}
		_ = conn.Close()
	}
}
