// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package actor is all that takes part in a benchmark and is not measured, or is a
// floor: the provider, the readers, the load, the copier, the bare writer. Each is a
// process of its own, so that what it costs is not counted with the manager's.
package actor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
)

// roleVariable is set in the environment of a process that is an actor.
const roleVariable = "CHATRUN_BENCH_ROLE"

// service is the actor's name in calls to its process.
const service = "Actor"

// Role is what an actor does.
type Role string

// The roles.
const (
	RoleProvider Role = "provider"
	RoleCopier   Role = "copier"
	RoleBare     Role = "bare"
	RoleReaders  Role = "readers"
	RoleLoad     Role = "load"
)

// Main makes this process an actor, if Start is what began it, and does not return
// then. A program that uses Start calls it before anything else.
func Main() {
	var receiver any
	switch role := Role(os.Getenv(roleVariable)); role {
	case "":
		return
	case RoleProvider:
		receiver = newProvider()
	case RoleCopier:
		receiver = &Copier{}
	case RoleBare:
		receiver = &Bare{}
	case RoleReaders:
		receiver = newReaders()
	case RoleLoad:
		receiver = newLoad()
	default:
		panic(fmt.Sprintf("no actor plays %q", role))
	}
	calls := rpc.NewServer()
	if err := calls.RegisterName(service, receiver); err != nil {
		panic(err)
	}
	// It ends with the process that began it.
	calls.ServeConn(duplex{os.Stdin, os.Stdout})
	os.Exit(0)
}

// duplex is a connection of two pipes.
type duplex struct {
	io.ReadCloser
	io.WriteCloser
}

// Close implements io.Closer.
func (d duplex) Close() error { return errors.Join(d.ReadCloser.Close(), d.WriteCloser.Close()) }

// Actor is one, as seen from the conductor's process.
type Actor struct {
	// PID is the process's.
	PID int

	role  Role
	cmd   *exec.Cmd
	calls *rpc.Client
}

// Start starts one, which ends with ctx, with Stop, or with this process.
func Start(ctx context.Context, role Role) (*Actor, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), roleVariable+"="+string(role))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the %s: %w", role, err)
	}
	return &Actor{PID: cmd.Process.Pid, role: role, cmd: cmd, calls: rpc.NewClient(duplex{out, in})}, nil
}

// Stop ends it.
func (a *Actor) Stop() {
	_ = a.calls.Close()
	_ = a.cmd.Wait() // it was told to end, and how it does says nothing
}

// Call asks an actor for something, and waits for it as long as ctx.
func Call[R any](ctx context.Context, a *Actor, method string, args any) (R, error) {
	// A pointer, which the answer may still come to when nobody waits any more.
	reply := new(R)
	call := a.calls.Go(service+"."+method, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-ctx.Done():
		var none R
		return none, fmt.Errorf("%s of the %s: %w", method, a.role, context.Cause(ctx))
	case <-call.Done:
		if call.Error != nil {
			return *reply, fmt.Errorf("%s of the %s: %w", method, a.role, call.Error)
		}
		return *reply, nil
	}
}

// Do is Call for what has no answer.
func Do(ctx context.Context, a *Actor, method string, args any) error {
	_, err := Call[None](ctx, a, method, args)
	return err
}

// None is no argument, and no answer.
type None struct{ Unused bool }
