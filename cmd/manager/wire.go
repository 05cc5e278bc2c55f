// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	crmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/access"
	"chatrun.dev/operator/internal/controller"
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/internal/metrics"
	"chatrun.dev/operator/internal/page"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
	"chatrun.dev/operator/internal/traces"
)

// manager makes the manager. sharing is nil if its cache is to hold all runs.
func (o *options) manager(cfg *rest.Config, sharing *controller.Sharing) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	served, err := o.metrics.server()
	if err != nil {
		return nil, err
	}
	all := controller.Slim(ctrl.Options{
		Scheme:                 scheme,
		HealthProbeBindAddress: o.healthAddress,
		Metrics:                served,
		PprofBindAddress:       o.pprofAddress,
	})
	all = controller.Only(all, o.namespaces)
	if sharing != nil {
		all = sharing.Cache(all)
	}
	mgr, err := ctrl.NewManager(cfg, all)
	if err != nil {
		return nil, fmt.Errorf("making the manager: %w", err)
	}
	return mgr, nil
}

// wire adds all that the manager runs. What it returns ends the attempts in order.
func (o *options) wire(ctx context.Context, mgr ctrl.Manager, replicas *members.Members, sharing *controller.Sharing, told *traces.Traces) (*controller.Drain, error) {
	caller, err := provider.New(provider.Options{
		EgressProxy: o.egressProxy, NoProxy: o.noProxy, DenyCIDRs: list(o.denyCIDRs),
		UserAgent: "chatrun-operator", HeaderTimeout: o.headerTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the provider client: %w", err)
	}
	hub := streamer.NewHub()
	hub.LogBytes, hub.TotalBytes, hub.Grace = o.stream.logBytes, o.stream.logTotalBytes, o.stream.logGrace
	counted, err := metrics.New(crmetrics.Registry)
	if err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	drain, err := controller.Setup(ctx, mgr, controller.Options{
		Caller: caller, Hub: hub, Members: replicas, MaxConcurrentStreams: o.maxStreams, Sharing: sharing, Metrics: counted, Traces: told,
	})
	if err != nil {
		return nil, err
	}
	if o.stream.address != off {
		source, err := controller.NewSource(ctx, mgr, replicas)
		if err != nil {
			return nil, err
		}
		source.Only(o.namespaces)
		if sharing != nil {
			source.Sharded()
		}
		lists, err := controller.NewRunLists(mgr, o.namespaces, sharing != nil)
		if err != nil {
			return nil, err
		}
		relay := func(streams *streamer.Handler) error {
			streams.Lister = lists
			return errors.Join(showReaders(counted, streams), o.relay.wire(mgr, hub, streams, o.replica, replicas))
		}
		if err := o.stream.wire(mgr, hub, source, relay); err != nil {
			return nil, err
		}
	}
	return drain, errors.Join(
		mgr.AddHealthzCheck("ping", healthz.Ping),
		mgr.AddReadyzCheck("cache", func(req *http.Request) error {
			wait, cancel := context.WithTimeout(req.Context(), time.Second)
			defer cancel()
			if !mgr.GetCache().WaitForCacheSync(wait) {
				return errors.New("the cache has not caught up with the API server yet")
			}
			return nil
		}),
		mgr.AddReadyzCheck("lease", func(*http.Request) error { return replicas.Ready() }),
	)
}

// wire adds the stream endpoint.
// It lets relay have the handler before that serves.
func (s *streamOptions) wire(mgr ctrl.Manager, hub *streamer.Hub, source streamer.Source, relay func(*streamer.Handler) error) error {
	o := access.Options{Log: ctrl.Log.WithName("stream")}
	if !s.local {
		client, err := kubernetes.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
		if err != nil {
			return fmt.Errorf("making a client for reviews: %w", err)
		}
		if o.TicketSecret, err = s.secret(podNamespace()); err != nil {
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
	server, err := s.server(hub, source, o)
	if err != nil {
		return err
	}
	if err := relay(server.streams); err != nil {
		return err
	}
	return mgr.Add(server)
}

// server puts the endpoint together. What it asks the API server goes by o.
func (s *streamOptions) server(hub *streamer.Hub, source streamer.Source, o access.Options) (*streamServer, error) {
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
	server.streams = handler
	served := http.Handler(handler)
	if s.page {
		var err error
		if served, err = page.Beside(handler, s.local); err != nil {
			return nil, err
		}
	}
	server.handler = access.Log(o.Log, bound(streamBodyTime, shared(list(s.origins), around(served))))
	return server, nil
}
