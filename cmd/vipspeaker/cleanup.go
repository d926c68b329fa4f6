package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"vipspeaker/internal/privilege"
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
nothing when nothing is left.

With --if-stopped, for ExecStopPost of a systemd unit, it does so only if the
daemon had been ordered to stop with shutdown.mode drain and did not come to its
end. After a crash, and with shutdown.mode restart, all is left to the next
start, which takes it over without interrupting traffic.`,
		Args: cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), cleanupTime)
			defer cancel()
			logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			return cleanup(ctx, f.stateDir, ifStopped, logger)
		}),
	}
	cmd.Flags().BoolVar(&ifStopped, "if-stopped", false, "only if the daemon had been ordered to stop for good")
	return cmd
}

func cleanup(ctx context.Context, stateDir string, ifStopped bool, logger *slog.Logger) (err error) {
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
	if err = m.Restore(ctx); err != nil {
		return fmt.Errorf("cleanup: %w", err)
	}
	return forgetRouterID(stateDir)
}
