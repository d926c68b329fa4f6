package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"vipspeaker/pkg/control"

	"github.com/spf13/cobra"
)

func newDrainCommand(f *flags) *cobra.Command {
	var r control.DrainRequest
	var lasts time.Duration
	var cmd *cobra.Command
	cmd = drainCommand(f, &r, "drain {VIP | --all}", "Take a VIP out of use without breaking its connections", `Take a VIP (its name or address), or all of them, out of use: announce it as
about to go (GRACEFUL_SHUTDOWN) for drain.time, withdraw it, and keep its
address for the connections that are left, until they end or
drain.connections_timeout is over. Then the rest is reset. Sessions stay up. A
VIP that this host owns (ownership) is handed over first, if another host is
ready for it.

The order outlives reloads and restarts. It ends with 'vipspeaker undrain', or
by itself after the time of --for.`,
		func(ctx context.Context, c *control.Client) (*control.DrainResult, error) {
			if cmd.Flags().Changed("for") { // 0s too, which is refused
				r.For = lasts.String()
			}
			return c.Drain(ctx, r)
		}, writeDrained)
	cmd.Flags().StringVar(&r.Reason, "reason", "", "`text` for those who look at the status")
	cmd.Flags().DurationVar(&lasts, "for", 0, "end the drain by itself after this `time`, such as 2h")
	return cmd
}

func newUndrainCommand(f *flags) *cobra.Command {
	var r control.DrainRequest
	return drainCommand(f, &r, "undrain {VIP | --all}", "Put a drained VIP into use again", `End the drain of a VIP (its name or address), or all drains. It is announced at
once, if its checks pass.`,
		func(ctx context.Context, c *control.Client) (*control.DrainResult, error) { return c.Undrain(ctx, r) }, writeUndrained)
}

// drainCommand is what both commands have in common.
func drainCommand(f *flags, r *control.DrainRequest, use, short, long string,
	do func(context.Context, *control.Client) (*control.DrainResult, error), write func(io.Writer, *control.DrainedVIP) error,
) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case r.All && len(args) > 0:
				return fmt.Errorf("a VIP and --all: give one of them")
			case !r.All && len(args) != 1:
				return errors.New("give one VIP, or --all")
			}
			return nil
		},
		RunE: does(func(cmd *cobra.Command, args []string) error {
			r.VIP = strings.Join(args, "")
			client := f.client()
			defer client.Close()
			result, err := do(cmd.Context(), client)
			if err != nil {
				return err
			}
			if o == asJSON {
				return printJSON(cmd.OutOrStdout(), result)
			}
			for i := range result.VIPs {
				if err := write(cmd.OutOrStdout(), &result.VIPs[i]); err != nil {
					return err
				}
			}
			return nil
		}),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return completeVIP(cmd.Context(), f, args)
		},
	}
	addOutputFlag(cmd, &o)
	cmd.Flags().BoolVar(&r.All, "all", false, "every VIP, also those that are configured later")
	return cmd
}

func writeDrained(w io.Writer, v *control.DrainedVIP) error {
	text := "withdrawn now"
	if left := time.Until(v.Withdraw); left > 0 {
		text = "about to go, withdrawn in " + left.Round(time.Second).String()
	}
	if !v.Changed {
		text += ", as ordered before"
	}
	if !v.Until.IsZero() {
		text += ", until " + v.Until.Local().Format(time.DateTime)
	}
	_, err := fmt.Fprintf(w, "%s %s: %s\n", v.Name, v.Prefix, text)
	return err
}

func writeUndrained(w io.Writer, v *control.DrainedVIP) error {
	text := "in use again"
	if !v.Changed {
		text = "was not drained"
	}
	_, err := fmt.Fprintf(w, "%s %s: %s\n", v.Name, v.Prefix, text)
	return err
}
