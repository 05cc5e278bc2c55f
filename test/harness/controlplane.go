// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package harness is what the suites under test/ share: a control plane that
// counts what it is asked, the manager in this process or in one of its own,
// and a reader of the stream.
package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	coordinationv1 "k8s.io/api/coordination/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"chatrun.dev/operator/api/v1alpha1"
)

// ManagerUser is who the manager under test is: bound to the rules of
// config/rbac and to nothing else.
const ManagerUser = "chatrun-manager"

// auditPolicy records who asked for which object and what came of it, for the
// kinds that cost something: not the bodies, not discovery.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  resources:
  - group: chatrun.dev
  - group: ""
    resources: [secrets, events, configmaps]
  - group: events.k8s.io
  - group: coordination.k8s.io
- level: None
`

// ControlPlane is etcd and kube-apiserver, with the CRDs and the manager's user.
type ControlPlane struct {
	// Client is an admin's, without a cache.
	Client client.WithWatch
	// Config is an admin's.
	Config *rest.Config
	// ManagerConfig is ManagerUser's.
	ManagerConfig *rest.Config
	// ManagerKubeconfig is the same as a file.
	ManagerKubeconfig string

	env   *envtest.Environment
	dir   string
	audit string
}

// Root returns the root of the checkout.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// Scheme knows our kinds and Kubernetes' own.
func Scheme() *apiruntime.Scheme {
	scheme := apiruntime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		panic(err)
	}
	return scheme
}

// Flag is a flag of the API server.
type Flag struct{ Name, Value string }

// StartControlPlane starts one from the binaries that KUBEBUILDER_ASSETS names.
func StartControlPlane(ctx context.Context, flags ...Flag) (*ControlPlane, error) {
	return StartControlPlaneAt(ctx, loopback, flags...)
}

// StartControlPlaneAt is StartControlPlane with the API server on another IP address
// of this machine, where managers reach it that loopback does not.
func StartControlPlaneAt(ctx context.Context, ip string, flags ...Flag) (_ *ControlPlane, err error) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return nil, errors.New("KUBEBUILDER_ASSETS is not set: run the suites with `make test`, or set it to what `make controlplane` prints")
	}
	dir, err := os.MkdirTemp("", "chatrun-test-")
	if err != nil {
		return nil, err
	}
	c := &ControlPlane{dir: dir, audit: filepath.Join(dir, "audit.log"), env: &envtest.Environment{
		CRDDirectoryPaths:     []string{filepath.Join(Root(), "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
	}}
	policy := filepath.Join(dir, "audit-policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return nil, err
	}
	server := c.env.ControlPlane.GetAPIServer()
	if ip != loopback {
		free, err := freeAddress(ip)
		if err != nil {
			return nil, fmt.Errorf("finding a port for the API server: %w", err)
		}
		if server.SecureServing.Address, server.SecureServing.Port, err = net.SplitHostPort(free); err != nil {
			return nil, err
		}
	}
	configure := server.Configure().
		Set("audit-policy-file", policy).
		Set("audit-log-path", c.audit)
	for _, flag := range flags {
		configure.Set(flag.Name, flag.Value)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if c.Config, err = c.env.Start(); err != nil {
		return nil, fmt.Errorf("starting the control plane: %w", err)
	}
	c.Config.QPS = -1
	if c.Client, err = client.NewWithWatch(c.Config, client.Options{Scheme: Scheme()}); err != nil {
		return nil, err
	}
	return c, c.addManager(ctx)
}

// addManager makes ManagerUser, with exactly the rules of config/rbac.
func (c *ControlPlane) addManager(ctx context.Context) error {
	user, err := c.env.AddUser(envtest.User{Name: ManagerUser}, &rest.Config{QPS: -1})
	if err != nil {
		return fmt.Errorf("adding the manager's user: %w", err)
	}
	c.ManagerConfig = user.Config()
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		return err
	}
	c.ManagerKubeconfig = filepath.Join(c.dir, "manager.kubeconfig")
	if err := os.WriteFile(c.ManagerKubeconfig, kubeconfig, 0o600); err != nil {
		return err
	}
	role := &rbacv1.ClusterRole{}
	if err := readRBAC("role.yaml", role); err != nil {
		return err
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   manager(),
	}
	return errors.Join(c.Client.Create(ctx, role), c.Client.Create(ctx, binding))
}

// AllowReplicas gives ManagerUser the rules of config/rbac for the Leases of
// replicas in a namespace.
func (c *ControlPlane) AllowReplicas(ctx context.Context, namespace string) error {
	role := &rbacv1.Role{}
	if err := readRBAC("replica_role.yaml", role); err != nil {
		return err
	}
	role.Namespace = namespace
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name, Namespace: namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects:   manager(),
	}
	return errors.Join(c.Client.Create(ctx, role), c.Client.Create(ctx, binding))
}

// Replicas returns the names of the managers that hold a Lease in a namespace.
func (c *ControlPlane) Replicas(ctx context.Context, namespace string) ([]string, error) {
	watches, err := c.Watches(ctx, namespace)
	return slices.Collect(maps.Keys(watches)), err
}

// Watches returns, by their names, which buckets those managers say they watch.
func (c *ControlPlane) Watches(ctx context.Context, namespace string) (map[string]string, error) {
	var leases coordinationv1.LeaseList
	if err := c.Client.List(ctx, &leases, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	watches := map[string]string{}
	for i := range leases.Items {
		if h := leases.Items[i].Spec.HolderIdentity; h != nil && *h != "" {
			watches[leases.Items[i].Name] = leases.Items[i].Annotations["chatrun.dev/watches"]
		}
	}
	return watches, nil
}

func manager() []rbacv1.Subject {
	return []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: ManagerUser}}
}

// readRBAC reads a manifest of config/rbac.
func readRBAC(file string, into any) error {
	raw, err := os.ReadFile(filepath.Join(Root(), "config", "rbac", file))
	if err != nil {
		return err
	}
	if err := yaml.UnmarshalStrict(raw, into); err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	return nil
}

// Stop ends it and removes what it wrote.
func (c *ControlPlane) Stop() error {
	return errors.Join(c.env.Stop(), os.RemoveAll(c.dir))
}

// Request is one request as the API server's audit log tells of it.
type Request struct {
	User, Verb, Resource, Subresource, Namespace, Name string
	// Code is the HTTP status of the answer.
	Code int
}

// Requests returns what the manager asked of the API server so far about
// objects in a namespace, watches left out.
func (c *ControlPlane) Requests(namespace string) ([]Request, error) {
	raw, err := os.ReadFile(c.audit)
	if err != nil {
		return nil, err
	}
	var requests []Request
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Verb string
			User struct{ Username string }
			// ObjectRef is absent for requests that are about no object.
			ObjectRef struct {
				Resource, Subresource, Namespace, Name string
			}
			ResponseStatus struct{ Code int }
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			// The last line may be half written.
			continue
		}
		if e.User.Username != ManagerUser || e.Verb == "watch" || e.ObjectRef.Namespace != namespace {
			continue
		}
		requests = append(requests, Request{
			User: e.User.Username, Verb: e.Verb, Resource: e.ObjectRef.Resource, Subresource: e.ObjectRef.Subresource,
			Namespace: e.ObjectRef.Namespace, Name: e.ObjectRef.Name, Code: e.ResponseStatus.Code,
		})
	}
	return requests, lines.Err()
}
