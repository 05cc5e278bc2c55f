// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream" //nolint:staticcheck // what client-go's own forwarder takes and gives
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

const (
	// managers are the manager's Pods, in any of the ways to install it.
	managers = "app.kubernetes.io/name=chatrun-operator,app.kubernetes.io/component=manager"
	// streamPort is where a manager serves streams.
	streamPort = 8090
	// loopback is where the near end of a tunnel listens.
	loopback = "127.0.0.1"
	// serverName is what a manager's certificate is for.
	serverName = "chatrun-stream.chatrun-system.svc"
)

// Tunnel leads to a manager's Pod, as kubectl port-forward does. The API server
// vouches for the Pod at its end, so the manager's certificate is checked only
// against an authority that was given: mostly it made its own.
type Tunnel struct {
	cfg       *rest.Config
	client    corev1client.CoreV1Interface
	namespace string
	trust     Trust
}

// NewTunnel makes one to the managers of a namespace.
func NewTunnel(cfg *rest.Config, namespace string, trust Trust) (*Tunnel, error) {
	client, err := corev1client.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	if trust.CAFile == "" {
		trust.Insecure = true
	} else if trust.ServerName == "" {
		trust.ServerName = serverName
	}
	return &Tunnel{cfg, client, namespace, trust}, nil
}

// Name implements Door.
func (t *Tunnel) Name() string { return "a port-forward to a manager in " + t.namespace }

// Open implements Door. The tunnel lasts as long as ctx.
func (t *Tunnel) Open(ctx context.Context, run Key, after string, follow bool) (*http.Response, error) {
	if !t.trust.Bears(t.cfg) {
		return nil, &RefusedError{Door: t.Name(), Advice: "Open the API server's front door (docs/access.md), which takes any kubeconfig, or give a token:\n" +
			"  kubectl create token READER >token && kubectl chatrun … --stream-token-file=token",
			Cause: errors.New("a manager's own door takes tokens alone, and your kubeconfig has none (it shows a client certificate)")}
	}
	pod, err := t.pod(ctx)
	if err != nil {
		return nil, err
	}
	port, err := t.dig(ctx, pod)
	if err != nil {
		return nil, err
	}
	cfg, err := bearing(t.cfg, t.trust)
	if err != nil {
		return nil, err
	}
	cfg.Host = fmt.Sprintf("https://%s:%d", loopback, port)
	client, base, err := reach(cfg)
	if err != nil {
		return nil, err
	}
	return get(ctx, client, base+path(run), after, follow)
}

// pod chooses a manager that is ready.
func (t *Tunnel) pod(ctx context.Context) (string, error) {
	pods, err := t.client.Pods(t.namespace).List(ctx, metav1.ListOptions{LabelSelector: managers})
	if err != nil {
		return "", t.refused(err, "list pods")
	}
	for _, pod := range pods.Items {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil {
				return pod.Name, nil
			}
		}
	}
	if len(pods.Items) == 0 {
		return "", &RefusedError{Door: t.Name(), Advice: "Say where the managers are with --stream-namespace.", Cause: errors.New("no manager runs there")}
	}
	return "", errors.New("no manager there is ready")
}

// dig opens a port of this machine that leads to one of a Pod, as long as ctx lasts.
func (t *Tunnel) dig(ctx context.Context, pod string) (uint16, error) {
	at := t.client.RESTClient().Post().Resource("pods").Namespace(t.namespace).Name(pod).SubResource("portforward").URL()
	dialer, err := t.dialer(at)
	if err != nil {
		return 0, err
	}
	kept := &keeping{Dialer: dialer}
	ready, ended := make(chan struct{}), make(chan error, 1)
	forward, err := portforward.NewOnAddressesWithContext(ctx, kept, []string{loopback}, []string{fmt.Sprintf("0:%d", streamPort)}, ready, io.Discard, io.Discard)
	if err != nil {
		return 0, err
	}
	go func() { ended <- forward.ForwardPorts() }()
	select {
	case err := <-ended:
		if kept.err != nil {
			err = kept.err
		}
		return 0, t.refused(err, "create pods/portforward")
	case <-ready:
	case <-ctx.Done(): // a dial knows nothing of it
		return 0, context.Cause(ctx)
	}
	ports, err := forward.GetPorts()
	if err != nil {
		return 0, err
	}
	return ports[0].Local, nil
}

// dialer speaks the newer of the two protocols, and the older one where a server or a
// proxy on the way does not know that.
func (t *Tunnel) dialer(at *url.URL) (httpstream.Dialer, error) {
	transport, upgrader, err := spdy.RoundTripperFor(t.cfg)
	if err != nil {
		return nil, err
	}
	newer, err := portforward.NewSPDYOverWebsocketDialer(at, t.cfg)
	if err != nil {
		return nil, err
	}
	older := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, at)
	return portforward.NewFallbackDialer(newer, older, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// keeping keeps the error of a dial, of which the forwarder passes on the text alone.
type keeping struct {
	httpstream.Dialer
	err error
}

// Dial implements httpstream.Dialer.
func (k *keeping) Dial(protocols ...string) (httpstream.Connection, string, error) {
	connection, protocol, err := k.Dialer.Dial(protocols...)
	k.err = err
	return connection, protocol, err
}

// refused says which right is missing, if one is.
func (t *Tunnel) refused(err error, right string) error {
	cause := err
	if upgrade, is := errors.AsType[*httpstream.UpgradeFailureError](err); is {
		cause = upgrade.Cause
	}
	if !apierrors.IsForbidden(cause) && !apierrors.IsUnauthorized(cause) {
		return err
	}
	return &RefusedError{
		Door: t.Name(), Cause: cause,
		Advice: fmt.Sprintf("You may not %s in the namespace %s, which is for those who run the managers. The API server's front door needs no such right.", right, t.namespace),
	}
}
