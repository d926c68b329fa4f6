package main

import (
	"context"
	"fmt"
	"time"

	"vipspeaker/pkg/control"

	"github.com/spf13/cobra"
)

func newMoveCommand(f *flags) *cobra.Command {
	var o output
	var to string
	wait := 10 * time.Second
	cmd := &cobra.Command{
		Use:   "move VIP --to HOST",
		Short: "Hand a VIP over to another host",
		Long: `Hand a VIP that has one owner (exclusive, ownership) over to another host that is
ready for it: it binds and announces the VIP, then the former owner withdraws it.
The order may be given on any host that shares the VIP.`,
		Args: cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			client := f.client()
			defer client.Close()
			if err := client.Move(cmd.Context(), args[0], to); err != nil {
				return err
			}
			if err := awaitMoved(cmd.Context(), client, args[0], to, wait); err != nil {
				return err
			}
			if o == asJSON {
				return printJSON(cmd.OutOrStdout(), control.Done{OK: true})
			}
			return nil
		}),
	}
	addOutputFlag(cmd, &o)
	cmd.Flags().StringVar(&to, "to", "", "`host` that is to own it (ownership.host)")
	cmd.Flags().DurationVar(&wait, "wait", wait, "how `long` to wait for the handover; 0 for not at all")
	if err := cmd.MarkFlagRequired("to"); err != nil {
		panic(err) // the flag is the one above
	}
	return cmd
}

// awaitMoved waits until a host owns the VIP.
func awaitMoved(ctx context.Context, client *control.Client, name, to string, wait time.Duration) error {
	if wait <= 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := client.Status(ctx)
		if err == nil {
			e, err := s.Explain(name, time.Now())
			if err != nil {
				return err
			}
			if r := e.VIP.Role; r != nil && r.Owner == to && r.Next == "" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s has not taken %s over within %s; it still may", to, name, wait)
		case <-tick.C:
		}
	}
}
