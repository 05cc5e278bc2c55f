// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/access"
	"chatrun.dev/operator/internal/controller"
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
)

// leaseName is the leader's Lease.
const leaseName = "chatrun-operator.chatrun.dev"

// manager makes the manager.
func (o *options) manager(cfg *rest.Config) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	slim := controller.Slim(ctrl.Options{
		Scheme:                  scheme,
		LeaderElection:          o.leaderElect,
		LeaderElectionID:        leaseName,
		LeaderElectionNamespace: o.leaderElectNS,
		// The process ends right after the manager, so the next leader need not
		// wait for the Lease to lapse.
		LeaderElectionReleaseOnCancel: true,
		HealthProbeBindAddress:        o.healthAddress,
		Metrics:                       metricsserver.Options{BindAddress: o.metricsAddress},
	})
	if o.shardRuns {
		// As long as one manager works at a time all runs are its share.
		shares := controller.NewShares(o.worker, nil)
		shares.Set(members.AllBuckets)
		slim = controller.Sharded(slim, controller.NewShardedRuns(shares, ctrl.Log.WithName("shards")))
	}
	mgr, err := ctrl.NewManager(cfg, slim)
	if err != nil {
		return nil, fmt.Errorf("making the manager: %w", err)
	}
	return mgr, nil
}

// wire adds all that the manager runs.
func (o *options) wire(ctx context.Context, mgr ctrl.Manager) error {
	caller, err := provider.New(provider.Options{
		EgressProxy: o.egressProxy, NoProxy: o.noProxy, DenyCIDRs: list(o.denyCIDRs),
		UserAgent: "chatrun-operator", HeaderTimeout: o.headerTimeout,
	})
	if err != nil {
		return fmt.Errorf("setting up the provider client: %w", err)
	}
	hub := streamer.NewHub()
	hub.LogBytes, hub.TotalBytes, hub.Grace = o.stream.logBytes, o.stream.logTotalBytes, o.stream.logGrace
	if err := controller.Setup(ctx, mgr, controller.Options{
		Caller: caller, Hub: hub, Worker: o.worker, MaxConcurrentStreams: o.maxStreams, Sharded: o.shardRuns,
	}); err != nil {
		return err
	}
	if o.stream.address != off {
		source, err := controller.NewSource(ctx, mgr)
		if err != nil {
			return err
		}
		if o.shardRuns {
			source.Sharded()
		}
		if err := o.stream.wire(mgr, hub, source); err != nil {
			return err
		}
	}
	return errors.Join(
		mgr.AddHealthzCheck("ping", healthz.Ping),
		mgr.AddReadyzCheck("cache", func(req *http.Request) error {
			wait, cancel := context.WithTimeout(req.Context(), time.Second)
			defer cancel()
			if !mgr.GetCache().WaitForCacheSync(wait) {
				return errors.New("the cache has not caught up with the API server yet")
			}
			return nil
		}),
	)
}

// podNamespace is where a pod finds the name of its namespace.
const podNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// wire adds the stream endpoint.
func (s *streamOptions) wire(mgr ctrl.Manager, hub *streamer.Hub, source streamer.Source) error {
	o := access.Options{Log: ctrl.Log.WithName("stream")}
	if !s.local {
		client, err := kubernetes.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
		if err != nil {
			return fmt.Errorf("making a client for reviews: %w", err)
		}
		// Outside a pod there is no such file, and tickets need the flag.
		own, _ := os.ReadFile(podNamespace)
		if o.TicketSecret, err = s.secret(string(bytes.TrimSpace(own))); err != nil {
			return err
		}
		o.Client = client
	}
	if s.frontDoor {
		door, err := access.NewFrontDoor(o.Client)
		if err != nil {
			return err
		}
		if err := mgr.Add(door); err != nil {
			return err
		}
		o.FrontDoor = door
		if err := mgr.AddReadyzCheck("front-door", func(*http.Request) error { return door.Ready() }); err != nil {
			return err
		}
	}
	return mgr.Add(s.server(hub, source, o))
}

// server puts the endpoint together. What it asks the API server goes by o.
func (s *streamOptions) server(hub *streamer.Hub, source streamer.Source, o access.Options) *streamServer {
	server := &streamServer{
		address: s.address, secure: !s.local, closing: hub.Close, log: o.Log,
		headerTimeout: streamHeaderTimeout, grace: streamGrace, reload: streamReload,
	}
	server.certFile, server.keyFile = s.certificate()
	guard := streamer.Anyone
	around := func(next http.Handler) http.Handler { return ownHost(access.NoDiscovery(next)) }
	if !s.local {
		gate := access.New(o)
		guard, around = gate, gate.Discovery
	}
	if o.FrontDoor != nil {
		server.change = o.FrontDoor.TLS
	}
	handler := streamer.NewHandler(hub, source, guard)
	handler.MaxReaders, handler.MaxReadersPerRun = s.maxReaders, s.maxReadersPerRun
	server.handler = access.Log(o.Log, bound(streamBodyTime, shared(list(s.origins), around(handler))))
	return server
}
