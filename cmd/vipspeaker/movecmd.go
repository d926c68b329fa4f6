package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vipspeaker/pkg/control"
	"vipspeaker/pkg/status"

	"github.com/spf13/cobra"
)

func newMoveCommand(f *flags) *cobra.Command {
	var o output
	var to string
	wait := 10 * time.Second
	cmd := &cobra.Command{
		Use:   "move VIP --to HOST",
		Short: "Hand a VIP over to another host",
		Long: `Hand a VIP that has one owner (exclusive, ownership) over to another host that
is ready for it: it binds and announces the VIP, then the former owner
withdraws it. The order may be given on any host that shares the VIP.`,
		Args: takes(1, 1),
		PreRunE: func(*cobra.Command, []string) error {
			if wait < 0 {
				return fmt.Errorf("--wait: %s: must not be negative; 0 is for not at all", wait)
			}
			return nil
		},
		RunE: does(func(cmd *cobra.Command, args []string) error {
			client := f.client()
			defer client.Close()
			revision, err := client.Move(cmd.Context(), args[0], to)
			if err != nil {
				return err
			}
			if err := awaitMoved(cmd.Context(), client, &handover{name: args[0], to: to, order: revision}, wait); err != nil {
				return err
			}
			if o == asJSON {
				return printJSON(cmd.OutOrStdout(), control.Done{OK: true, Revision: revision})
			}
			return nil
		}),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return completeVIP(cmd.Context(), f, args)
		},
	}
	addOutputFlag(cmd, &o)
	cmd.Flags().StringVar(&to, "to", "", "`host` that is to own it (ownership.host)")
	cmd.Flags().DurationVar(&wait, "wait", wait, "how `long` to wait for the handover; 0 for not at all")
	completeNames(cmd, f, "to", readyHosts)
	if err := cmd.RegisterFlagCompletionFunc("wait", cobra.NoFileCompletions); err != nil {
		panic(err) // the flag was added above
	}
	if err := cmd.MarkFlagRequired("to"); err != nil {
		panic(err) // the flag is the one above
	}
	return cmd
}

// readyHosts are those that could own a VIP.
func readyHosts(s *status.Status) []string {
	var hosts []string
	for i := range s.VIPs {
		if r := s.VIPs[i].Role; r != nil {
			hosts = append(hosts, r.Ready...)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// handover is an order to hand a VIP over.
type handover struct {
	name, to string
	// order is its revision in etcd; 0 if the daemon does not tell.
	order int64
	// seen is the newest one that status had, and trouble why etcd could not be asked
	// then.
	seen    int64
	trouble string
}

// look tells whether the order has been carried out, and an error if it never will be.
func (h *handover) look(r *status.Role) (done bool, err error) {
	h.seen, h.trouble = max(h.seen, r.Revision), r.Trouble
	switch {
	case h.order == 0:
		return r.Owner == h.to && r.Next == "", nil
	case h.seen < h.order, r.Revision == h.order:
		return false, nil // the picture is of before the order, or that is in force
	case r.Owner == h.to:
		return true, nil
	case r.Next == h.to: // by another order, or because the owner is gone
		return false, nil
	case r.Owner == "":
		return false, fmt.Errorf("%s has not been handed over: nobody owns it any more, and the order has ended with its owner; %s takes it like any other host that is ready", h.name, h.to)
	case r.Epoch > h.order:
		return false, fmt.Errorf("%s has not been handed over: %s came to own it, and the order has ended with the owner before", h.name, r.Owner)
	case r.Next != "":
		return false, fmt.Errorf("%s has not been handed over to %s: another order came after this one, for %s", h.name, h.to, r.Next)
	}
	return false, fmt.Errorf("%s has not been handed over: its owner %s has taken the order back, as %s was not ready for it any more", h.name, r.Owner, h.to)
}

// late is what is to be said when it has not been carried out in time.
func (h *handover) late(wait time.Duration) error {
	text := fmt.Sprintf("%s has not taken %s over within %s; ", h.to, h.name, wait)
	switch {
	case h.order == 0:
		text += "it still may"
	case h.seen < h.order:
		text += "the order is in etcd, and status does not show yet what became of it: it still may"
	default:
		text += "the order is in force: it still may"
	}
	if h.trouble != "" {
		text += " (etcd cannot be asked: " + h.trouble + ")"
	}
	return errors.New(text)
}

// awaitMoved waits until an order is carried out, or never will be.
func awaitMoved(ctx context.Context, client *control.Client, h *handover, wait time.Duration) error {
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
			e, err := s.Explain(h.name, time.Now())
			if err != nil {
				return err
			}
			if r := e.VIP.Role; r != nil {
				if done, err := h.look(r); done || err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return h.late(wait)
		case <-tick.C:
		}
	}
}
