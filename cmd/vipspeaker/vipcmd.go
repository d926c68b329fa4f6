package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"vipspeaker/pkg/control"

	"github.com/spf13/cobra"
)

func newVIPCommand(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vip",
		Short: "Add, remove and show VIPs that are not in the configuration",
		Long: `Add, remove and show VIPs that are not in the configuration. They must lie in
runtime_vips.allowed_prefixes. A VIP with a TTL goes unless its owner renews it,
by 'vipspeaker vip renew' or the same by the control socket.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newVIPAddCommand(f), newVIPShowCommand(f),
		runtimeVIPCommand(f, "renew NAME", "Let a VIP live for another TTL", "renewed", (*control.Client).RenewVIP),
		runtimeVIPCommand(f, "remove NAME", "Withdraw and unbind a VIP that was added at run time", "removed", (*control.Client).RemoveVIP))
	return cmd
}

func newVIPAddCommand(f *flags) *cobra.Command {
	var o output
	var r control.VIPRequest
	var name string
	var interfaces, communities []string
	var med uint32
	var preferred bool
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "add ADDRESS",
		Short: "Add a VIP, or change and renew it",
		Args:  takes(1, 1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			spec, announce := map[string]any{"address": args[0]}, map[string]any{}
			if args[0] == "" {
				return errors.New("the address is empty: must be an address or a prefix such as 192.0.2.1 or 2001:db8::/64")
			}
			if !cmd.Flags().Changed("name") {
				name = args[0]
			}
			if cmd.Flags().Changed("interfaces") { // none too, which is refused
				spec["interfaces"] = interfaces
			}
			if preferred {
				spec["preferred_source"] = true
			}
			if len(communities) > 0 {
				announce["communities"] = communities
			}
			if cmd.Flags().Changed("med") {
				announce["med"] = med
			}
			if len(announce) > 0 {
				spec["announce"] = announce
			}
			if cmd.Flags().Changed("ttl") { // 0s too, which is refused
				r.TTL = ttl.String()
			}
			var err error
			if r.Spec, err = json.Marshal(spec); err != nil {
				return err
			}
			client := f.client()
			defer client.Close()
			v, err := client.PutVIP(cmd.Context(), name, r)
			if err != nil {
				return err
			}
			return showRuntimeVIP(cmd.OutOrStdout(), o, v, "added")
		}),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	addOutputFlag(cmd, &o)
	fs := cmd.Flags()
	fs.StringVar(&name, "name", "", "`name` of the VIP (default: the address)")
	fs.StringSliceVar(&interfaces, "interfaces", nil, "`names` of the interfaces on which it is announced (default: all)")
	fs.BoolVar(&preferred, "preferred-source", false, "make it the source of outgoing traffic that names none")
	fs.StringSliceVar(&communities, "communities", nil, "`communities` to announce it with, such as 65010:100")
	fs.Uint32Var(&med, "med", 0, "`MED` to announce it with")
	fs.DurationVar(&ttl, "ttl", 0, "the `time` after which it goes unless it is renewed, 1s to 24h (default: never)")
	fs.BoolVar(&r.Ephemeral, "ephemeral", false, "forget it when the daemon ends")
	return cmd
}

func newVIPShowCommand(f *flags) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "show [NAME]",
		Short: "Show the VIPs that were added at run time",
		Args:  takes(0, 1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			client := f.client()
			defer client.Close()
			if len(args) == 1 {
				v, err := client.RuntimeVIP(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return showRuntimeVIP(cmd.OutOrStdout(), o, v, "")
			}
			list, err := client.RuntimeVIPs(cmd.Context())
			if err != nil {
				return err
			}
			if o == asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			if len(list.VIPs) == 0 {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "no VIP was added at run time")
				return err
			}
			for i := range list.VIPs {
				if err := showRuntimeVIP(cmd.OutOrStdout(), o, &list.VIPs[i], ""); err != nil {
					return err
				}
			}
			return nil
		}),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return completeRuntimeVIP(cmd.Context(), f, args)
		},
	}
	addOutputFlag(cmd, &o)
	return cmd
}

// runtimeVIPCommand is a command that does something with one VIP.
func runtimeVIPCommand(f *flags, use, short, done string, do func(*control.Client, context.Context, string) (*control.RuntimeVIP, error)) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use: use, Short: short,
		Args: takes(1, 1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			client := f.client()
			defer client.Close()
			v, err := do(client, cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return showRuntimeVIP(cmd.OutOrStdout(), o, v, done)
		}),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return completeRuntimeVIP(cmd.Context(), f, args)
		},
	}
	addOutputFlag(cmd, &o)
	return cmd
}

// completeRuntimeVIP offers the names of the run-time VIPs to the shell.
func completeRuntimeVIP(ctx context.Context, f *flags, args []string) ([]string, cobra.ShellCompDirective) {
	client := f.client()
	defer client.Close()
	list, err := client.RuntimeVIPs(ctx)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make([]string, len(list.VIPs))
	for i := range list.VIPs {
		names[i] = list.VIPs[i].Name
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// showRuntimeVIP prints one line about a VIP: what was done, or what it is.
func showRuntimeVIP(w io.Writer, o output, v *control.RuntimeVIP, done string) error {
	if o == asJSON {
		return printJSON(w, v)
	}
	text := done
	switch {
	case done != "":
	case v.Error != "":
		text = "no effect: " + v.Error
	case v.Announced:
		text = "announced"
	case v.Reason != "":
		text = "withheld: " + string(v.Reason)
	default:
		text = "in the next pass"
	}
	if !v.Expires.IsZero() && done != "removed" {
		text += fmt.Sprintf(", expires in %s", max(time.Until(v.Expires), 0).Round(time.Second))
	}
	if v.Ephemeral && done != "removed" {
		text += ", ephemeral"
	}
	_, err := fmt.Fprintf(w, "%s %s: %s\n", v.Name, addressOf(v), text)
	return err
}

// addressOf is the address of the VIP as its owner gave it.
func addressOf(v *control.RuntimeVIP) string {
	var spec struct {
		Address string `json:"address"`
	}
	if err := json.Unmarshal(v.Spec, &spec); err != nil {
		return string(v.Spec)
	}
	return spec.Address
}
