package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// SpeakerOptions are what a Speaker needs.
type SpeakerOptions struct {
	Log *slog.Logger
	// Poke is called after State or Received changed. It must not block.
	Poke func()
	// Restarting says that a former process held these sessions and died: peers
	// that kept its routes (RFC 4724) are told so. Never set at a cold start.
	Restarting bool
	// AcceptPaths takes the peers' paths in and reports them by Received. They
	// are never sent on. Without it only those of SpeakerConfig.Import are.
	AcceptPaths bool
}

// timing are the intervals that tests shorten.
type timing struct {
	ceaseWait   time.Duration // longest wait until a Cease is out before the peer is deleted
	flapMax     time.Duration // longest pause before a session that fell is listened for again
	flapCalm    time.Duration // a session that lived this long ended for a new reason
	limitRetry  time.Duration // first pause after a peer sent too many prefixes
	limitMax    time.Duration // longest pause of that kind
	openWait    time.Duration // longest wait for the peer's OPEN
	recheck     time.Duration // how often the world is compared with what events told
	drainLinger time.Duration // longest wait for the withdraws and the Cease of a drain
}

func defaultTiming() timing {
	return timing{
		ceaseWait: 100 * time.Millisecond, flapMax: 4 * time.Second, flapCalm: 10 * time.Second,
		limitRetry: 30 * time.Second, limitMax: 10 * time.Minute, openWait: 15 * time.Second,
		recheck: 5 * time.Second, drainLinger: 3 * time.Second,
	}
}

// Speaker is one in-process BGP speaker. Apply makes it equal to what is wanted,
// Run keeps its sessions coming back, State tells what is. All methods may be
// called from any goroutine.
//
// A panic inside GoBGP ends the process that the Speaker lives in.
type Speaker struct {
	opt     SpeakerOptions
	log     *slog.Logger
	timing  timing
	adapter *logAdapter
	wake    chan struct{}
	started time.Time

	watch     context.Context // ends the event subscription
	stopWatch context.CancelFunc

	server   atomic.Pointer[server.BgpServer] // nil before the first Apply
	state    atomic.Pointer[SpeakerState]
	received atomic.Pointer[[]ReceivedPath]
	gated    atomic.Bool // what a peer gets depends on its OPEN
	opened   atomic.Bool // sessions came or went, which admit has not seen

	mu        sync.Mutex // serialises whatever changes GoBGP
	cfg       SpeakerConfig
	listening []netip.AddrPort
	closed    bool
	held      []pathKey // the paths of the last listing
	bundles   bundles
	export    export
	imports   imports
	zones     map[string]int // index of the device of each zone

	pub    sync.Mutex // serialises publish
	looked time.Time  // the last lookAround; belongs to publish

	smu       sync.Mutex // guards the following
	name      string
	asn       uint32
	sessions  map[netip.Addr]*session
	announced []netip.Prefix
	watched   []netip.Prefix
	taking    []netip.Prefix // what imports has in force
	applyErr  error
	listenErr error
}

// NewSpeaker returns a speaker that does nothing before its first Apply.
func NewSpeaker(o SpeakerOptions) *Speaker {
	ctx, cancel := context.WithCancel(context.Background())
	wake := make(chan struct{}, 1)
	s := &Speaker{
		opt: o, log: o.Log, timing: defaultTiming(), adapter: newLogAdapter(o.Log, wake), wake: wake,
		started: time.Now(), watch: ctx, stopWatch: cancel, sessions: map[netip.Addr]*session{}, zones: map[string]int{},
	}
	s.state.Store(&SpeakerState{Phase: Starting, PID: os.Getpid(), Since: s.started})
	return s
}

// State returns the current picture; never nil.
func (s *Speaker) State() *SpeakerState { return s.state.Load() }

// Received returns the paths that peers sent and that were taken.
func (s *Speaker) Received() []ReceivedPath {
	if p := s.received.Load(); p != nil {
		return *p
	}
	return nil
}

// SetDebug makes GoBGP's own messages part of the log.
func (s *Speaker) SetDebug(on bool) { s.adapter.debug.Store(on) }

// Ping asks GoBGP's main goroutine something and returns when it answered. It
// does not end before that even if ctx does: GoBGP's calls cannot be cancelled.
func (s *Speaker) Ping(ctx context.Context) error {
	srv := s.server.Load()
	if srv == nil {
		return nil
	}
	if _, err := srv.GetBgp(ctx, &api.GetBgpRequest{}); err != nil {
		return fmt.Errorf("ask gobgp: %w", err)
	}
	return nil
}

// Apply makes the speaker equal to cfg: peers that must go first, then paths
// that must go, paths that must come, and at last peers that must come, so that
// a new session starts with all paths. What is equal already is not touched and
// causes no message. Invalid parts are left out and reported, the rest holds.
// The first Apply starts the server; ASN, RouterID, ListenPort and
// ListenAddresses cannot change after it.
//
// If ctx ends early the work stops between two paths, with ctx's error.
func (s *Speaker) Apply(ctx context.Context, cfg SpeakerConfig) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	want, err := clean(cfg)
	switch {
	case s.closed:
		return errors.New("speaker is closed")
	case want.Name == "":
		return s.finish(ctx, err)
	case s.server.Load() == nil:
		if startErr := s.start(ctx, want); startErr != nil {
			return s.finish(ctx, startErr)
		}
	case want.ASN != s.cfg.ASN || want.RouterID != s.cfg.RouterID:
		return s.finish(ctx, fmt.Errorf("speaker %s: asn and router id cannot change while it runs", want.Name))
	}
	s.cfg = want
	s.noteZones(want)
	s.smu.Lock()
	s.name, s.asn, s.watched = want.Name, want.ASN, want.Watch
	s.smu.Unlock()
	err = errors.Join(err, s.reconcile(ctx, want))
	return s.finish(ctx, err)
}

// finish records the outcome of an Apply and shows the new state.
func (s *Speaker) finish(ctx context.Context, err error) error {
	s.smu.Lock()
	s.applyErr = err
	s.smu.Unlock()
	s.signal()
	s.publish(ctx)
	return err
}

// start makes the GoBGP server. A listen address that is not usable is left
// out, because GoBGP refuses to start with it.
func (s *Speaker) start(ctx context.Context, cfg SpeakerConfig) error {
	srv := server.NewBgpServer(server.LoggerOption(s.adapter))
	go srv.Serve()
	usable, listenErr := bindable(ctx, cfg)
	global := &api.Global{Asn: cfg.ASN, RouterId: cfg.RouterID.String(), ListenPort: -1}
	if len(usable) > 0 {
		global.ListenPort = int32(cfg.ListenPort) //nolint:gosec // checked to be a port
		for _, a := range usable {
			// GoBGP does not know zones; a socket of the device needs none.
			if zone := a.Addr().Zone(); zone != "" {
				global.BindToDevice = zone
			}
			global.ListenAddresses = append(global.ListenAddresses, a.Addr().WithZone("").String())
		}
	}
	err := srv.StartBgp(ctx, &api.StartBgpRequest{Global: global})
	if err != nil && len(usable) > 0 {
		// An address went away in between. GoBGP left some listeners open.
		listenErr = errors.Join(listenErr, fmt.Errorf("listen: %w", err))
		_ = srv.StopBgp(ctx, &api.StopBgpRequest{}) // always nil
		usable, global.ListenPort, global.ListenAddresses, global.BindToDevice = nil, -1, nil, ""
		err = srv.StartBgp(ctx, &api.StartBgpRequest{Global: global})
	}
	if err != nil {
		return fmt.Errorf("start speaker %s: %w", cfg.Name, err)
	}
	if err := errors.Join(setImport(ctx, srv, s.opt.AcceptPaths), s.setExport(ctx, srv, s.exportFor(cfg, nil))); err != nil {
		return fmt.Errorf("start speaker %s: %w", cfg.Name, err)
	}
	watch := &api.WatchEventRequest{Peer: &api.WatchEventRequest_Peer{}}
	if s.opt.AcceptPaths {
		watch.Table = &api.WatchEventRequest_Table{Filters: []*api.WatchEventRequest_Table_Filter{
			{Type: api.WatchEventRequest_Table_Filter_POST_POLICY, Init: true},
		}}
	}
	if err := srv.WatchEvent(s.watch, watch, s.observe); err != nil { //nolint:contextcheck // it lives as long as the speaker
		return fmt.Errorf("start speaker %s: watch: %w", cfg.Name, err)
	}
	s.listening = usable
	s.smu.Lock()
	s.listenErr = listenErr
	s.smu.Unlock()
	s.server.Store(srv)
	return nil
}

// setImport lets only our own paths in: the default REJECT would refuse them
// too, so a statement accepts what is local.
func setImport(ctx context.Context, srv *server.BgpServer, accept bool) error {
	local := &api.Statement{
		Name:       "local",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ACCEPT},
	}
	policy := &api.Policy{Name: "own-paths-only", Statements: []*api.Statement{local}}
	if err := srv.AddPolicy(ctx, &api.AddPolicyRequest{Policy: policy}); err != nil {
		return fmt.Errorf("add import policy: %w", err)
	}
	imports := api.RouteAction_REJECT
	if accept {
		imports = api.RouteAction_ACCEPT
	}
	err := srv.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name: "global", Direction: api.PolicyDirection_IMPORT, DefaultAction: imports, Policies: []*api.Policy{{Name: policy.Name}},
	}})
	if err != nil {
		return fmt.Errorf("assign import policy: %w", err)
	}
	return nil
}

// Close ends the speaker. StopDrain withdraws all paths, sends
// Cease/Administrative Shutdown with the text and closes the connections, at
// most until ctx ends. StopRestart sends nothing and leaves the connections as
// they are: they close with the process.
func (s *Speaker) Close(ctx context.Context, mode StopMode, text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	srv := s.server.Load()
	if s.closed || srv == nil || mode == StopRestart {
		s.closed = true
		s.stopWatch()
		return nil
	}
	s.closed = true
	defer s.stopWatch()
	ctx, cancel := context.WithTimeout(ctx, s.timing.drainLinger)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.drain(ctx, srv, text) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("drain speaker %s: %w", s.cfg.Name, ctx.Err())
	}
}

// drain works through GoBGP's calls, which may block for as long as a peer's
// hold time when it does not read.
func (s *Speaker) drain(ctx context.Context, srv *server.BgpServer, text string) error {
	var errs []error
	if err := srv.DeletePath(ctx, &api.DeletePathRequest{}); err != nil {
		errs = append(errs, fmt.Errorf("withdraw all: %w", err))
	}
	peers, err := s.listPeers(ctx, srv)
	errs = append(errs, err)
	all := make([]netip.Addr, 0, len(peers))
	for a := range peers {
		all = append(all, a)
	}
	errs = append(errs, s.removePeers(ctx, srv, peers, all, func(netip.Addr) string { return text }, s.timing.drainLinger))
	if err := srv.StopBgp(ctx, &api.StopBgpRequest{}); err != nil {
		errs = append(errs, fmt.Errorf("stop: %w", err))
	}
	s.server.Store(nil)
	s.smu.Lock()
	s.announced = nil
	s.smu.Unlock()
	s.publish(ctx)
	return errors.Join(errs...)
}
