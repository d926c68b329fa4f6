package main

import (
	"context"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/hook"
	"vipspeaker/pkg/status"
)

// hookStates are the VIPs of a picture with the commands of the configuration.
func hookStates(s *status.Status, c *config.Config) []hook.State {
	commands := make(map[string]*config.Hooks, len(c.VIPs))
	for i := range c.VIPs {
		commands[c.VIPs[i].Name] = &c.VIPs[i].On
	}
	list := make([]hook.State, 0, len(s.VIPs))
	for i := range s.VIPs {
		v := &s.VIPs[i]
		on := commands[v.Name]
		if on == nil {
			continue // the next picture is without it too
		}
		state := hook.State{
			Name: v.Name, Address: v.Prefix.String(), Announced: v.Announced, Bound: v.Bound,
			Reason: string(v.Reason), Detail: v.Detail, Timeout: on.Timeout,
			Commands: map[string][]string{
				hook.Announced: on.Announced, hook.Withdrawn: on.Withdrawn, hook.Bound: on.Bound, hook.Unbound: on.Unbound,
				hook.Owner: on.Owner, hook.Lost: on.Lost,
			},
		}
		if r := v.Role; r != nil {
			state.Owns, state.Ceased, state.Owner, state.Epoch = r.Owns, r.Ceased, r.Owner, r.Epoch
		}
		for j := range v.Interfaces {
			if v.Interfaces[j].Announced {
				state.Interfaces = append(state.Interfaces, v.Interfaces[j].Interface)
			}
		}
		list = append(list, state)
	}
	return list
}

// runLoop is the control loop. After a drain everything is withdrawn and unbound,
// which no pass tells any more.
func (d *daemon) runLoop(ctx context.Context) error {
	err := d.loop.Run(ctx)
	if d.endMode() == modeDrain {
		d.hooks.Set(nil)
	}
	return err
}
