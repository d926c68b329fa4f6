package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"vipspeaker/internal/privilege"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/vip"

	"github.com/spf13/cobra"
)

// cleanupTime bounds the whole command.
const cleanupTime = time.Minute

func newCleanupCommand(f *flags) *cobra.Command {
	var ifStopped bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what a daemon that is gone left in the kernel",
		Long: `Remove the VIPs, rules, routes and the virtual interface that a daemon which is
gone left in the kernel, and restore what it had changed. It refuses while a
daemon runs in this network namespace, with whatever state directory, and does
nothing when nothing is left. It needs the configuration only where the state
file is damaged and egress.install is main: it tells which routes are ours.

With --if-stopped, for ExecStopPost of a systemd unit, it does so only if the
daemon had been ordered to stop with shutdown.mode drain and did not come to its
end. After a crash, and with shutdown.mode restart, all is left to the next
start, which takes it over without interrupting traffic.`,
		Args: takes(0, 0),
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), cleanupTime)
			defer cancel()
			logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			return cleanup(ctx, f, ifStopped, logger)
		}),
	}
	cmd.Flags().BoolVar(&ifStopped, "if-stopped", false, "only if the daemon had been ordered to stop for good")
	return cmd
}

func cleanup(ctx context.Context, f *flags, ifStopped bool, logger *slog.Logger) (err error) {
	stateDir := f.stateDir
	l, err := takeLock(ctx, stateDir)
	if err != nil {
		return err
	}
	defer func() {
		if releaseErr := l.release(); err == nil {
			err = releaseErr
		}
	}()
	if ifStopped && l.before.stop != modeDrain {
		return nil
	}
	if err = privilege.Raise(); err != nil {
		return err
	}
	m, err := vip.New(vip.Options{Log: logger, StateDir: stateDir}) //nolint:contextcheck // its first reading is bounded
	if err != nil {
		return err
	}
	defer m.Close()
	restore := m.Restore
	if m.Unclaimed() {
		restore = func(ctx context.Context) error {
			return m.RestoreFor(ctx, wasWanted(f.config, m.AdoptedLearned(), logger))
		}
	}
	if err = restore(ctx); err != nil {
		return fmt.Errorf("cleanup: %w", err)
	}
	return errors.Join(forgetRouterID(stateDir), forgetFronts(stateDir))
}

// wasWanted is what the configuration wants of the main table, by which routes in it
// are known where the state file is damaged: nothing without a configuration.
func wasWanted(path string, learned []vip.Learned, logger *slog.Logger) vip.Desired {
	cfg, err := config.Load(path)
	if err != nil {
		logger.Warn("the state file is damaged, and without the configuration routes of the main table are not known to be ours", "error", err)
		return vip.Desired{}
	}
	var d vip.Desired
	if cfg.Egress.Install == "main" {
		d.MainMetric = cfg.Egress.Metric
	}
	for i := range cfg.VIPs {
		d.VIPs = append(d.VIPs, cfg.VIPs[i].Prefix)
	}
	d.Exclude = slices.Clone(cfg.Egress.Exclude)
	peers := slices.Clone(cfg.Peers)
	for i := range cfg.Interfaces {
		d.Interfaces = append(d.Interfaces, vip.Interface{Name: cfg.Interfaces[i].Name})
		peers = append(peers, cfg.Interfaces[i].Peers...)
	}
	for i := range peers {
		if a := peers[i].Address; a.IsValid() {
			d.Exclude = append(d.Exclude, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, l := range learned {
		if slices.Contains(cfg.Egress.Import, l.Prefix) {
			d.Learned = append(d.Learned, l)
		}
	}
	return d
}
