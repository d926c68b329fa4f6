package vip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Defaults of Options.
const (
	DefaultBaseTable    = 6801
	DefaultBasePriority = 32100
)

// Options are what a Manager needs.
type Options struct {
	Log *slog.Logger
	// StateDir is made if absent; the state file in it exists while anything of
	// ours is on the host. It must not survive a reboot: /run/vipspeaker.
	StateDir string
	// BaseTable is the first of our routing tables: the return table, followed
	// by one per distinct source VIP. Default 6801.
	BaseTable uint32
	// BasePriority is the first priority of our policy rules, which take up to
	// 600 from there; it must be below that of the main table (32766). Default
	// 32100.
	BasePriority uint32
}

// Manager is the one writer to the kernel. Its calls exclude each other; a call
// that waits for another gives up with its context.
type Manager struct {
	log     *slog.Logger
	opts    Options
	turn    chan struct{} // capacity 1: held by the call that runs
	conn    *conn
	state   *stateFile
	adopted bool
	sources []netip.Addr
	placed  placed
	// delivered are the usable IPv6 addresses for which the kernel takes packets.
	delivered map[netip.Prefix]bool
	// deliveryBound is how long Bind waits for the others.
	deliveryBound time.Duration
	// flush are the devices whose unresolved neighbours must still be deleted.
	flush map[int]bool
	// kinds of virtual devices, the preferred one first.
	kinds []string
	// problems are those of the last Steer, the one call that looks for all.
	problems []string
	// logged are the sources that were in effect when they were last logged.
	logged []SourceState
	// inMain are the learned prefixes that main held when it was last read.
	inMain []netip.Prefix
	// learned are the routes that a former process had learned.
	learned []Learned
	// unclaimed are routes of main with our number that were there before us, and
	// of which a damaged state file does not tell whose they are.
	unclaimed []mainKey
	// connections are those of drained VIPs as they were last counted.
	connections map[netip.Prefix]int
}

// New opens the kernel in the network namespace of the calling thread and reads
// the state file of a former process. It changes nothing of the network.
func New(o Options) (*Manager, error) {
	if o.BaseTable == 0 {
		o.BaseTable = DefaultBaseTable
	}
	if o.BasePriority == 0 {
		o.BasePriority = DefaultBasePriority
	}
	m := &Manager{
		log: o.Log, opts: o, turn: make(chan struct{}, 1), placed: newPlaced(), flush: map[int]bool{}, delivered: map[netip.Prefix]bool{}, deliveryBound: deliveryBound,
		kinds: []string{string(KindDummy), string(KindBridge), "ifb"},
	}
	var err error
	if m.conn, err = dial(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("vip: %w", err)
	}
	m.state, m.adopted, err = openState(o.StateDir)
	if m.state == nil {
		m.conn.close()
		return nil, fmt.Errorf("vip: %w", err)
	}
	if err != nil { // what it said is lost, what is marked is not
		m.log.Warn("state file of a former process is not readable", "error", err)
	}
	m.state.allow = m.conn.allow
	if m.adopted {
		m.learned = m.state.Learned
		m.adopt(err != nil)
	}
	return m, nil
}

// Close gives back the netlink socket. It leaves the kernel's state as it is.
func (m *Manager) Close() {
	m.conn.close()
}

// adopt reads which sources a former process left in effect, and where its state
// file is damaged also which routes.
func (m *Manager) adopt(damaged bool) {
	ctx, cancel := context.WithTimeout(context.Background(), socketTimeout)
	defer cancel()
	s := &snapshot{}
	err := m.conn.readOwn(ctx, s)
	if err == nil && damaged {
		err = m.recall(ctx, s)
	}
	if err != nil {
		m.log.Warn("what a former process left is not readable", "error", err)
		return
	}
	for i := range s.own {
		r := &s.own[i]
		if r.tabled() && r.prefsrc.IsValid() && s.looksUp(r.family(), r.table) && !slices.Contains(m.sources, r.prefsrc) {
			m.sources = append(m.sources, r.prefsrc)
		}
	}
}

// Adopted tells whether a former process left without Restore: New found its
// state file.
func (m *Manager) Adopted() bool { return m.adopted }

// AdoptedSources are the preferred sources that a former process left in
// effect, as New found them.
func (m *Manager) AdoptedSources() []netip.Addr { return slices.Clone(m.sources) }

// Steer makes the source tables, the rules and the sysctls right for the VIPs
// that are bound now: it moves legs between interfaces and turns sources on and
// off. A source that is not bound is not turned on. The order is that in which
// traffic moves soonest.
func (m *Manager) Steer(ctx context.Context, d Desired) (Actual, error) {
	return m.run(ctx, d, readAll, func(p *pass) {
		p.reclaim()
		p.steer(p.servedVIPs())
		p.sysctls()
		p.inspect()
		p.drained(false)
	})
}

// Bind makes the virtual interface and the VIPs on it. It adds only. What it
// bound gets its rules at once, so that replies take the right path before
// anybody is told of the VIP.
func (m *Manager) Bind(ctx context.Context, d Desired) (Actual, error) {
	return m.run(ctx, d, readHosts, func(p *pass) {
		p.usableAddresses()
		written := p.bind()
		if written {
			clear(m.delivered)
		}
		if !written && len(p.undelivered) == 0 || !p.reread() {
			return
		}
		p.awaitDelivery()
		p.steer(p.servedVIPs())
	})
}

// Unbind resets what is due of the connections of drained VIPs, and removes our
// addresses that are not in Desired, after their source and rules, and devices of
// ours that are empty then.
func (m *Manager) Unbind(ctx context.Context, d Desired) (Actual, error) {
	return m.run(ctx, d, readHosts, func(p *pass) {
		p.drained(true)
		if p.unbind() {
			p.reread()
		}
	})
}

// Read only tells what the kernel holds.
func (m *Manager) Read(ctx context.Context, d Desired) (Actual, error) {
	return m.run(ctx, d, readTables, func(*pass) {})
}

// Restore removes everything of ours: rules, routes, addresses, devices; gives
// back the sysctls that are still as we set them; and removes the state file.
// It also does so for what a former process left. Called at a clean stop.
func (m *Manager) Restore(ctx context.Context) error {
	_, err := m.run(ctx, Desired{Sysctls: SysctlOff}, readTables, (*pass).restore)
	return err
}

// run is the frame of every call: wait for the turn, read, do, tell.
func (m *Manager) run(ctx context.Context, d Desired, depth depth, do func(*pass)) (Actual, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return Actual{}, fmt.Errorf("vip: wait for the call before: %w", ctx.Err())
	}
	p := &pass{ctx: ctx, m: m, d: d, a: Actual{Repaired: map[string]int{}}}
	if err := m.conn.renew(); err != nil {
		return p.a, fmt.Errorf("vip: %w", err)
	}
	if err := p.read(depth); err != nil {
		return p.a, fmt.Errorf("vip: %w", err)
	}
	p.resolve()
	do(p)
	p.finish()
	if err := errors.Join(p.errs...); err != nil {
		return p.a, fmt.Errorf("vip: %w", err)
	}
	return p.a, nil
}

// depth says how much of the kernel a call reads at its begin.
type depth int

const (
	// readHosts is enough to see whether there is anything to bind or unbind.
	// The sources are then told as the call before read them.
	readHosts depth = iota
	readTables
	readAll // the main table too
)

// read takes the snapshot.
func (p *pass) read(depth depth) error {
	s := &snapshot{}
	if err := p.m.conn.readHosts(p.ctx, s); err != nil {
		return err
	}
	if depth >= readTables {
		if err := p.m.conn.readOwn(p.ctx, s); err != nil {
			return err
		}
	}
	if depth >= readAll {
		if err := p.m.conn.readMain(p.ctx, s); err != nil {
			return err
		}
		p.m.state.splitMain(s)
	}
	if err := p.m.conn.readLocal(p.ctx, s, p.d.VIPs); err != nil {
		return err
	}
	p.s, p.usable, p.a.Read = s, nil, time.Now()
	p.tablesRead = depth >= readTables
	return nil
}

// reread is read after changes; an error is kept.
func (p *pass) reread() bool {
	if err := p.read(readAll); err != nil {
		p.fail(err)
		return false
	}
	return true
}
