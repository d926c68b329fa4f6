package bgp

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// rawPeer is a router that the test plays itself, message by message.
type rawPeer struct {
	t    *testing.T
	conn net.Conn
	open *bgp.BGPOpen // what the speaker sent

	mu     sync.Mutex
	msgs   []*bgp.BGPMessage // all but KEEPALIVE, after the handshake
	closed error
	mute   bool      // sends no KEEPALIVE
	kept   time.Time // just before the last KEEPALIVE was sent, zero before the first
	parse  *bgp.MarshallingOption
	eors   []bgp.RouteFamily
}

// rawOptions are what a raw peer does in another way than usual.
type rawOptions struct {
	hold    uint16 // 90 s if 0
	noHold  bool   // offers hold time 0
	restart uint16 // graceful restart time, not offered if 0
	waits   bool   // offers graceful restart for IPv4, so that its End-of-RIB is waited for
	addPath bool   // takes several paths of a prefix
	caps    []bgp.ParameterCapabilityInterface
	id      netip.Addr // the identifier, the own address if zero
	control func(fd int) error
}

func tcpAddr(a netip.Addr, port int) *net.TCPAddr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, uint16(port)))
}

// dialRaw connects from one address to a speaker's, as often as it takes, and
// goes through the handshake.
func dialRaw(t *testing.T, from, to netip.Addr, asn uint32, o rawOptions) *rawPeer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for {
		p, err := tryRaw(ctx, t, from, to, asn, o)
		if err == nil {
			return p
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			t.Fatalf("no session from %s to %s: %v", from, to, err)
		}
	}
}

func tryRaw(ctx context.Context, t *testing.T, from, to netip.Addr, asn uint32, o rawOptions) (*rawPeer, error) {
	t.Helper()
	conn, err := connect(ctx, from, to, o.control)
	if err != nil {
		return nil, err
	}
	p := &rawPeer{t: t, conn: conn}
	if err := p.handshake(asn, from, o, 3*time.Second); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return p, nil
}

func connect(ctx context.Context, from, to netip.Addr, control func(int) error) (net.Conn, error) {
	d := net.Dialer{LocalAddr: tcpAddr(from, 0)}
	if control != nil {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var failed error
			if err := c.Control(func(fd uintptr) { failed = control(int(fd)) }); err != nil {
				return err
			}
			return failed
		}
	}
	return d.DialContext(ctx, "tcp", net.JoinHostPort(to.String(), strconv.Itoa(testPort)))
}

// acceptRaw listens until a speaker connects and goes through the handshake.
func acceptRaw(t *testing.T, at netip.Addr, asn uint32, o rawOptions) *rawPeer {
	t.Helper()
	lc := net.ListenConfig{}
	if o.control != nil {
		lc.Control = func(_, _ string, c syscall.RawConn) error {
			var failed error
			if err := c.Control(func(fd uintptr) { failed = o.control(int(fd)) }); err != nil {
				return err
			}
			return failed
		}
	}
	l, err := lc.Listen(context.Background(), "tcp", net.JoinHostPort(at.String(), strconv.Itoa(testPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if err = l.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatalf("nobody connects to %s: %v", at, err)
	}
	p := &rawPeer{t: t, conn: conn}
	if err := p.handshake(asn, at, o, patience); err != nil {
		t.Fatalf("handshake at %s: %v", at, err)
	}
	return p
}

func (p *rawPeer) handshake(asn uint32, id netip.Addr, o rawOptions, within time.Duration) error {
	hold := o.hold
	if hold == 0 && !o.noHold {
		hold = 90
	}
	if o.id.IsValid() {
		id = o.id
	}
	if id.Is6() {
		id = netip.AddrFrom4([4]byte{10, 9, 9, 9})
	}
	caps := []bgp.ParameterCapabilityInterface{
		bgp.NewCapMultiProtocol(bgp.RF_IPv4_UC), bgp.NewCapMultiProtocol(bgp.RF_IPv6_UC), bgp.NewCapFourOctetASNumber(asn),
	}
	caps = append(caps, o.caps...)
	if o.addPath {
		caps = append(caps, bgp.NewCapAddPath([]*bgp.CapAddPathTuple{
			bgp.NewCapAddPathTuple(bgp.RF_IPv4_UC, bgp.BGP_ADD_PATH_RECEIVE), bgp.NewCapAddPathTuple(bgp.RF_IPv6_UC, bgp.BGP_ADD_PATH_RECEIVE),
		}))
		both := bgp.BGP_ADD_PATH_BOTH
		p.parse = &bgp.MarshallingOption{AddPath: map[bgp.RouteFamily]bgp.BGPAddPathMode{bgp.RF_IPv4_UC: both, bgp.RF_IPv6_UC: both}}
	}
	if o.restart > 0 {
		tuples := []*bgp.CapGracefulRestartTuple{}
		if o.waits {
			tuples = append(tuples, bgp.NewCapGracefulRestartTuple(bgp.RF_IPv4_UC, false))
		}
		caps = append(caps, bgp.NewCapGracefulRestart(false, false, o.restart, tuples))
	}
	open := bgp.NewBGPOpenMessage(uint16(min(asn, bgp.AS_TRANS)), hold, id.String(),
		[]bgp.OptionParameterInterface{bgp.NewOptionParameterCapability(caps)})
	if err := p.write(open); err != nil {
		return err
	}
	if err := p.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	for _, want := range []uint8{bgp.BGP_MSG_OPEN, bgp.BGP_MSG_KEEPALIVE} {
		m, err := p.read()
		if err != nil {
			return err
		}
		if m.Header.Type != want {
			return fmt.Errorf("message %d (%+v) instead of %d", m.Header.Type, m.Body, want)
		}
		if want == bgp.BGP_MSG_OPEN {
			p.open = m.Body.(*bgp.BGPOpen)
			if err := p.write(bgp.NewBGPKeepAliveMessage()); err != nil {
				return err
			}
		}
	}
	if err := p.conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() { defer close(done); p.receive() })
	wg.Go(func() { p.keepalive(done) })
	p.t.Cleanup(func() { _ = p.conn.Close(); wg.Wait() })
	return nil
}

func (p *rawPeer) receive() {
	for {
		m, err := p.read()
		p.mu.Lock()
		if err != nil {
			p.closed = err
			p.mu.Unlock()
			return
		}
		if m.Header.Type != bgp.BGP_MSG_KEEPALIVE {
			p.msgs = append(p.msgs, m)
		}
		if u, ok := m.Body.(*bgp.BGPUpdate); ok {
			if eor, family := u.IsEndOfRib(); eor {
				p.eors = append(p.eors, family)
			}
		}
		p.mu.Unlock()
	}
}

func (p *rawPeer) keepalive(done chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		mute := p.mute
		if !mute {
			p.kept = time.Now()
		}
		p.mu.Unlock()
		if !mute {
			_ = p.write(bgp.NewBGPKeepAliveMessage())
		}
	}
}

func (p *rawPeer) write(m *bgp.BGPMessage) error {
	b, err := m.Serialize()
	if err != nil {
		return err
	}
	_, err = p.conn.Write(b)
	return err
}

func (p *rawPeer) read() (*bgp.BGPMessage, error) {
	head := make([]byte, bgp.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(p.conn, head); err != nil {
		return nil, err
	}
	body := make([]byte, int(head[16])<<8+int(head[17])-bgp.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(p.conn, body); err != nil {
		return nil, err
	}
	return bgp.ParseBGPMessage(append(head, body...), p.parse)
}

// setMute has no KEEPALIVE sent any more, and returns a time just before the last
// one.
func (p *rawPeer) setMute() (last time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = true
	return p.kept
}

// keeps tells whether it has sent a KEEPALIVE of its own accord.
func (p *rawPeer) keeps() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.kept.IsZero()
}

// restarting tells the restart bit and the forwarding bits of the OPEN (RFC 4724
// section 3), and the time.
func (p *rawPeer) restarting() (restart, forwarding bool, seconds uint16) {
	p.t.Helper()
	for _, param := range p.open.OptParams {
		for _, c := range param.(*bgp.OptionParameterCapability).Capability {
			if gr, ok := c.(*bgp.CapGracefulRestart); ok {
				forwarding = len(gr.Tuples) == 2
				for _, tuple := range gr.Tuples {
					forwarding = forwarding && tuple.Flags&0x80 != 0
				}
				return gr.Flags&0x8 != 0, forwarding, gr.Time
			}
		}
	}
	p.t.Error("no graceful restart capability")
	return false, false, 0
}

// endOfRIB sends the End-of-RIB of IPv4 (RFC 4724 section 2).
func (p *rawPeer) endOfRIB() {
	p.t.Helper()
	if err := p.write(bgp.NewEndOfRib(bgp.RF_IPv4_UC)); err != nil {
		p.t.Error(err)
	}
}

// seen renders what came since the last call, in order, without End-of-RIB.
func (p *rawPeer) seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, m := range p.msgs {
		out = append(out, render(m)...)
	}
	p.msgs = nil
	return out
}

// await collects until done says so, and returns all that came meanwhile.
func (p *rawPeer) await(within time.Duration, done func([]string) bool) []string {
	p.t.Helper()
	var all []string
	eventually(p.t, within, func() string { return fmt.Sprintf("messages: %q", all) }, func() bool {
		all = append(all, p.seen()...)
		return done(all)
	})
	return all
}

// quiet returns what comes within d.
func (p *rawPeer) quiet(d time.Duration) []string {
	<-time.After(d)
	return p.seen()
}

// gets returns the n messages that have to come, and what comes within d after
// them.
func (p *rawPeer) gets(n int, d time.Duration) []string {
	p.t.Helper()
	all := p.await(patience, func(all []string) bool { return len(all) >= n })
	return append(all, p.quiet(d)...)
}

func (p *rawPeer) ended() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

func render(m *bgp.BGPMessage) []string {
	switch body := m.Body.(type) {
	case *bgp.BGPUpdate:
		if eor, _ := body.IsEndOfRib(); eor {
			return nil
		}
		return []string{renderUpdate(body)}
	case *bgp.BGPNotification:
		text := ""
		if len(body.Data) > 0 {
			text = " " + string(body.Data[1:])
		}
		return []string{fmt.Sprintf("notification %d/%d%s", body.ErrorCode, body.ErrorSubcode, text)}
	}
	return []string{fmt.Sprintf("message %d", m.Header.Type)}
}

func renderUpdate(u *bgp.BGPUpdate) string {
	var parts []string
	hop := ""
	for _, n := range u.WithdrawnRoutes {
		parts = append(parts, "-"+n.String())
	}
	var rest []string
	for _, a := range u.PathAttributes {
		switch v := a.(type) {
		case *bgp.PathAttributeNextHop:
			hop = v.Value.String()
		case *bgp.PathAttributeMpReachNLRI:
			hop = v.Nexthop.String()
			for _, n := range v.Value {
				parts = append(parts, "+"+n.String())
			}
		case *bgp.PathAttributeMpUnreachNLRI:
			for _, n := range v.Value {
				parts = append(parts, "-"+n.String())
			}
		case *bgp.PathAttributeOrigin:
			if v.Value != bgp.BGP_ORIGIN_ATTR_TYPE_IGP {
				rest = append(rest, a.String())
			}
		default:
			rest = append(rest, a.String())
		}
	}
	for _, n := range u.NLRI {
		parts = append(parts, "+"+n.String())
	}
	slices.Sort(parts)
	out := fmt.Sprint(parts)
	if hop != "" {
		out += " via " + hop + " " + fmt.Sprint(rest)
	}
	return out
}
