package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/control"
	"vipspeaker/pkg/orders"
	"vipspeaker/pkg/speaker"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// replaceMargin is how much longer than it says a daemon that is replaced may
// take to end: its host may be busy.
const replaceMargin = 5 * time.Second

// replace gets the lock from the daemon that runs here: it makes sure that this
// process can take over, orders that one to end, and waits for that. Where none
// runs, it is takeLock. An error before the order leaves that daemon as it was.
func replace(ctx context.Context, f *flags, cfg *config.Config, logger *slog.Logger) (*lock, error) {
	l, err := takeLock(ctx, f.stateDir)
	var held *heldError
	if !errors.As(err, &held) {
		return l, err
	}
	untouched := func(err error) (*lock, error) {
		return nil, fmt.Errorf("the running vipspeaker is not replaced: %w", err)
	}
	if held.record == nil {
		return untouched(fmt.Errorf("it has another state directory than %s: give its --state-dir, or in a container its volume (%w)", f.stateDir, err))
	}
	own, err := f.socketOf(cfg)
	if err == nil {
		err = readiness(ctx, f, cfg, own, held.record)
	}
	if err != nil {
		return untouched(err)
	}
	network, err := control.NetworkNamespace()
	if err != nil {
		return untouched(err)
	}
	socket := held.record.socket
	if socket == "" {
		socket = own
	}
	client := control.NewClient(socket)
	defer client.Close()
	picture, err := client.Status(ctx)
	if err != nil {
		return untouched(err)
	}
	warnOfLoss(ctx, logger, picture, cfg)
	h, err := client.HandOver(ctx, control.Successor{Network: network, Version: readVersions().Version})
	if err != nil {
		return untouched(err)
	}
	return inherit(ctx, f, held, h, picture.Version, logger)
}

// inherit waits for the lock of a daemon that was ordered to end.
func inherit(ctx context.Context, f *flags, held *heldError, h *control.Handover, version string, logger *slog.Logger) (*lock, error) {
	within, err := time.ParseDuration(h.Within)
	if err != nil {
		return nil, fmt.Errorf("the running vipspeaker ends, but not as one of this version: %w", err)
	}
	within += replaceMargin
	logger.InfoContext(ctx, "replacing a running vipspeaker", "process", held.pid, "its_version", version, "its_mode", h.Mode, "within", within)
	if h.Mode != modeRestart {
		logger.WarnContext(ctx, "the running vipspeaker withdraws its VIPs and unbinds them before it ends", "its_mode", h.Mode)
	}
	l, err := awaitLock(ctx, f.stateDir, within, func(now *heldError) bool {
		return now.record == nil || now.record.pid == held.record.pid
	})
	var now *heldError
	switch {
	case !errors.As(err, &now):
		return l, err
	case now.record != nil && now.record.pid != held.record.pid:
		return nil, fmt.Errorf("another one was faster: %w", err)
	}
	return nil, fmt.Errorf("the running vipspeaker (process %d) did not end within %v of its order to, its log may say why: "+
		"end it by force (kill -9, docker kill) and start this one again; routers with graceful restart keep its routes for its restart_time from the end of its sessions (%w)",
		held.pid, within, err)
}

// readiness returns what would keep this process from going on where the running
// one ends, as far as that can be known before.
func readiness(ctx context.Context, f *flags, cfg *config.Config, socket string, running *record) error {
	if err := readable(f); err != nil {
		return err
	}
	if running.socket != "" && running.socket != socket {
		l, err := control.Listen(ctx, socket)
		if err == nil {
			err = l.Close()
		}
		if err != nil {
			return err
		}
	}
	// What has the same port may be in the way of the running one only.
	if running.http == "" || cfg.HTTP.Listen == "" || portOf(running.http) == portOf(cfg.HTTP.Listen) {
		return nil
	}
	l, err := status.Listen(ctx, cfg.HTTP.Listen)
	if err == nil {
		err = l.Close()
	}
	return err
}

// httpOf is where a daemon with that configuration serves metrics, for its record.
func httpOf(cfg *config.Config) string {
	if cfg.HTTP.Listen == "" {
		return "off"
	}
	return cfg.HTTP.Listen
}

// portOf is the port of an address.
func portOf(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// readable returns an error when this version would not understand what another
// one left on disk.
func readable(f *flags) error {
	return errors.Join(vip.CheckState(f.stateDir), orders.Check(f.dataDir))
}

// warnOfLoss tells which routers will drop routes while this process takes over.
func warnOfLoss(ctx context.Context, logger *slog.Logger, s *status.Status, cfg *config.Config) {
	var names []string
	for i := range s.Peers {
		if n := s.Peers[i].Negotiated; n != nil && !n.GracefulRestart {
			names = append(names, s.Peers[i].Name())
		}
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) > 0 {
		logger.WarnContext(ctx, "without graceful restart routers drop the routes until their sessions are back", "peers", strings.Join(names, ", "))
	}
	if !cfg.BGP.GracefulRestart.Enabled {
		logger.WarnContext(ctx, "the new configuration has no bgp.graceful_restart: routers drop the routes that they keep when its sessions come up")
	}
}

// handOver ends the daemon for a process that replaces it. Without graceful restart
// the routes could not be left, so it then ends as it would on a signal.
func (d *daemon) handOver(ctx context.Context, s control.Successor) (*control.Handover, error) {
	network, err := control.NetworkNamespace()
	if err != nil {
		return nil, err
	}
	if s.Network != network {
		return nil, control.Refuse(http.StatusConflict, "it serves the network namespace %s, which is not that of the process that is to replace it (%s)", network, s.Network)
	}
	if os.Getenv("NOTIFY_SOCKET") != "" {
		return nil, control.Refuse(http.StatusConflict, "it belongs to a service manager, which would take its end for the service's: restart it there "+
			"(systemctl restart), with shutdown.mode restart in force so that no route is lost")
	}
	c := d.config.Load()
	mode, tell := c.Shutdown.Mode, d.loop.Stop
	if c.BGP.GracefulRestart.Enabled {
		mode, tell = modeRestart, d.loop.HandOver
	}
	t := speaker.Transition{
		Event: status.Event{Kind: "daemon", Subject: "vipspeaker", Message: "replaced", Cause: "by version " + s.Version},
		Attrs: []any{"by_version", s.Version},
	}
	t.Tell(ctx, d.log, d.record, time.Now())
	mode = d.stop(mode, tell)
	return &control.Handover{Mode: mode, Within: (c.Shutdown.Time + endTime).String()}, nil
}
