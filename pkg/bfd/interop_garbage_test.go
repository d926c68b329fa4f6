package bfd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"vipspeaker/test/netnstest"

	"golang.org/x/sys/unix"
)

// garbagePackets is how many packets each of these tests sends.
const garbagePackets = 20000

// hostile sends packets to our port from the router's own address.
type hostile struct {
	w    *world
	conn *net.UDPConn
	to   netip.AddrPort
	v6   bool
}

func (w *world) hostile(o over) *hostile {
	w.t.Helper()
	h := &hostile{w: w, to: netip.AddrPortFrom(o.local, 3784), v6: o.local.Is6()}
	w.r1.Do(func() error {
		c, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", netip.AddrPortFrom(o.peer, 0).String())
		if err == nil {
			h.conn = c.(*net.UDPConn)
		}
		return err
	})
	w.t.Cleanup(func() { _ = h.conn.Close() })
	h.ttl(255)
	return h
}

func (h *hostile) ttl(n int) {
	h.w.t.Helper()
	raw, err := h.conn.SyscallConn()
	if err != nil {
		h.w.t.Fatal(err)
	}
	failed := raw.Control(func(fd uintptr) {
		level, name := unix.IPPROTO_IP, unix.IP_TTL
		if h.v6 {
			level, name = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
		}
		err = unix.SetsockoptInt(int(fd), level, name, n)
	})
	if err = errors.Join(failed, err); err != nil {
		h.w.t.Fatal(err)
	}
}

func (h *hostile) send(b []byte) {
	h.w.t.Helper()
	_, err := h.conn.WriteToUDPAddrPort(b, h.to)
	// Now and then the kernel tells of our own closed port: that is an answer to
	// a packet before.
	if err != nil && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOBUFS) {
		h.w.t.Fatal(err)
	}
}

// controlPacket is a control packet as RFC 5880 section 4.1 has it, valid but for its
// discriminators.
func controlPacket(rnd *rand.Rand) []byte {
	b := make([]byte, 24)
	b[0], b[1], b[2], b[3] = 1<<5|byte(rnd.IntN(9)), byte(rnd.IntN(4))<<6|byte(rnd.IntN(2))<<5, 1+byte(rnd.IntN(250)), 24
	binary.BigEndian.PutUint32(b[4:], 1+rnd.Uint32N(1<<31))
	for at := 12; at < 24; at += 4 {
		binary.BigEndian.PutUint32(b[at:], rnd.Uint32N(1<<uint(rnd.IntN(32))))
	}
	return b
}

// wrongs make a valid packet one that must not be taken (RFC 5880 section
// 6.8.6); the discriminator of our session is known to nobody but the router.
func wrongs() map[string]func([]byte, *rand.Rand) []byte {
	fill := func(b []byte, rnd *rand.Rand) []byte {
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}
	return map[string]func([]byte, *rand.Rand) []byte{
		"noise":            func(_ []byte, rnd *rand.Rand) []byte { b := fill(make([]byte, rnd.IntN(80)), rnd); return spoil(b) },
		"short":            func(b []byte, rnd *rand.Rand) []byte { return b[:rnd.IntN(24)] },
		"version":          func(b []byte, rnd *rand.Rand) []byte { b[0] = b[0]&0x1f | []byte{0, 2, 3, 7}[rnd.IntN(4)]<<5; return b },
		"length below":     func(b []byte, rnd *rand.Rand) []byte { b[3] = byte(rnd.IntN(24)); return b },
		"length beyond":    func(b []byte, rnd *rand.Rand) []byte { b[3] = 25 + byte(rnd.IntN(230)); return b },
		"multiplier 0":     func(b []byte, _ *rand.Rand) []byte { b[2] = 0; return b },
		"multipoint":       func(b []byte, _ *rand.Rand) []byte { b[1] |= 1; return b },
		"no discriminator": func(b []byte, _ *rand.Rand) []byte { clear(b[4:8]); return b },
		"strange discriminator": func(b []byte, rnd *rand.Rand) []byte {
			binary.BigEndian.PutUint32(b[8:], 1+rnd.Uint32N(1<<31))
			return b
		},
		"up, of no session":       func(b []byte, _ *rand.Rand) []byte { b[1] |= 3 << 6; return b },
		"init, of no session":     func(b []byte, _ *rand.Rand) []byte { b[1] = b[1]&0x3f | 2<<6; return b },
		"authenticated":           authenticated,
		"authenticated, cut":      func(b []byte, rnd *rand.Rand) []byte { b = authenticated(b, rnd); return b[:24+rnd.IntN(len(b)-24)] },
		"authentication too long": func(b []byte, rnd *rand.Rand) []byte { b = authenticated(b, rnd); b[25]++; return b },
	}
}

// spoil makes sure that noise is not by chance a packet that says Down.
func spoil(b []byte) []byte {
	if len(b) > 0 && b[0]>>5 == 1 {
		b[0] ^= 0x80
	}
	return b
}

// authenticated is a packet with an authentication section that nobody asked for.
func authenticated(b []byte, rnd *rand.Rand) []byte {
	section := [][]byte{
		slices.Concat([]byte{1, 9, 7}, []byte("sesame")),
		slices.Concat([]byte{2 + byte(rnd.IntN(2)), 24, 7, 0}, make([]byte, 20)),
		slices.Concat([]byte{4 + byte(rnd.IntN(2)), 28, 7, 0}, make([]byte, 24)),
		{byte(rnd.Uint32()), 2},
	}[rnd.IntN(4)]
	b[1] |= 1 << 2
	b = append(b, section...)
	b[3] = byte(len(b))
	return b
}

// keepsUp waits until nearly all of so many packets were dropped, fewer than the
// engine reads in a turn are left: a flood is another question.
func (o *ours) keepsUp(sent uint64) {
	o.t.Helper()
	if sent%10 != 0 {
		return
	}
	o.await("keeping up", func(s SessionState) bool { return s.Dropped+burst/2 > sent })
}

// Whatever arrives from the router's address that is not a packet of the
// session, the session does not move, and a valid one from too far away neither.
func TestInteropGarbage(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		r.configure(o.remote())
		us := w.up(r, o)
		before := us.state()
		h := w.hostile(o)
		rnd := rand.New(rand.NewPCG(68, 1))
		kinds := wrongs()
		for n := range uint64(garbagePackets / len(kinds)) {
			for _, spoiled := range kinds {
				h.send(spoiled(controlPacket(rnd), rnd))
			}
			us.keepsUp((n + 1) * uint64(len(kinds)))
		}
		h.ttl(254)
		for range 100 {
			b := controlPacket(rnd)
			b[1] = 1 << 6 // Down, Your Discriminator 0: valid from one hop away
			h.send(b)
		}
		s := us.state()
		us.await("going on", func(n SessionState) bool { return n.Received > s.Received+10 })
		us.stays(before)
		w.awaitTheirStatus(r, o, Up)
		w.t.Logf("%d packets dropped of %d", us.state().Dropped, garbagePackets)
	})
}

// With authentication, nothing that a stranger can make moves the session: not
// what was really said, said again later, and not with any bit changed.
func TestInteropReplayAndMutation(t *testing.T) {
	for family, kind := range map[string]AuthType{"ipv4": MeticulousKeyedMD5, "ipv6": MeticulousKeyedSHA1} {
		t.Run(string(kind)+" "+family, func(t *testing.T) {
			t.Parallel()
			netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
				t.Helper()
				w, o := newWorld(t, ns), families()[family]
				r := newBIRD(w)
				p := o.remote()
				p.auth = &Auth{Type: kind, KeyID: 7, Key: "sesame"}
				seen := w.capture(o)
				r.configure(p)
				cfg := o.wish()
				cfg.Auth = p.auth
				us := w.run(cfg)
				before := w.awaitBothUp(us, r, o)
				us.await("going on", func(s SessionState) bool { return s.Received > before.Received+20 })
				packets := seen()
				if len(packets) < 10 {
					t.Fatalf("captured %d packets", len(packets))
				}
				h := w.hostile(o)
				rnd := rand.New(rand.NewPCG(68, 2))
				for n := range uint64(garbagePackets) {
					us.keepsUp(n)
					b := slices.Clone(packets[rnd.IntN(len(packets))])
					if n%4 != 0 { // the others as they were
						for range 1 + rnd.IntN(3) {
							b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
						}
					}
					h.send(b)
				}
				s := us.await("refusing all of it", func(s SessionState) bool { return s.Dropped == garbagePackets })
				us.await("going on", func(n SessionState) bool { return n.Received > s.Received+10 })
				us.stays(before)
				w.awaitTheirStatus(r, o, Up)
				t.Logf("%d of %d packets dropped, the last: %s", s.Dropped, garbagePackets, s.LastDrop)
			})
		})
	}
}

// capture listens to what the router sends to our port, from now on. The
// function that it returns ends that.
func (w *world) capture(o over) (stop func() [][]byte) {
	w.t.Helper()
	fd := -1
	w.r1.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(uint16(unix.ETH_P_ALL)<<8|unix.ETH_P_ALL>>8))
		return err
	})
	w.t.Cleanup(func() { _ = unix.Close(fd) })
	head := 20
	if o.local.Is6() {
		head = 40
	}
	return func() [][]byte {
		var out [][]byte
		buffer := make([]byte, 2048)
		for range 10000 {
			n, _, err := unix.Recvfrom(fd, buffer, 0)
			if err != nil {
				if !errors.Is(err, unix.EAGAIN) {
					w.t.Fatal(fmt.Errorf("capture: %w", err))
				}
				return out
			}
			b := buffer[:n]
			if len(b) < head+8+24 || b[0]>>4 != byte(4+2*((head-20)/20)) {
				continue
			}
			src, _ := netip.AddrFromSlice(b[head-8 : head-4])
			if head == 40 {
				src, _ = netip.AddrFromSlice(b[8:24])
			}
			if udp := b[head:]; src == o.peer && binary.BigEndian.Uint16(udp[2:]) == 3784 {
				out = append(out, slices.Clone(udp[8:]))
			}
		}
		return out
	}
}
