// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package runs reads and writes ChatRuns and ChatProviders, by a client that needs no
// discovery: the plugin is of the version that it is of.
package runs

import (
	"context"
	"encoding/json"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/gentype"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"chatrun.dev/operator/api/v1alpha1"
)

// Runs is a client of one namespace, or of all.
type Runs = gentype.ClientWithList[*v1alpha1.ChatRun, *v1alpha1.ChatRunList]

// Providers is one, too.
type Providers = gentype.ClientWithList[*v1alpha1.ChatProvider, *v1alpha1.ChatProviderList]

// Scheme knows our kinds.
var Scheme = func() *runtime.Scheme {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		panic(err) // two types of one name
	}
	return scheme
}()

// Client speaks to an API server.
type Client struct {
	own  rest.Interface
	core corev1client.CoreV1Interface
}

// New makes one.
func New(cfg *rest.Config) (*Client, error) {
	own := rest.CopyConfig(cfg)
	own.APIPath, own.GroupVersion = "/apis", &v1alpha1.GroupVersion
	own.NegotiatedSerializer = serializer.NewCodecFactory(Scheme).WithoutConversion()
	client, err := rest.RESTClientFor(own)
	if err != nil {
		return nil, err
	}
	core, err := corev1client.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return &Client{client, core}, nil
}

// Runs are those of a namespace; "" is all of them.
func (c *Client) Runs(namespace string) *Runs {
	return gentype.NewClientWithList("chatruns", c.own, parameters, namespace,
		func() *v1alpha1.ChatRun { return &v1alpha1.ChatRun{} },
		func() *v1alpha1.ChatRunList { return &v1alpha1.ChatRunList{} })
}

// Providers are those of a namespace.
func (c *Client) Providers(namespace string) *Providers {
	return gentype.NewClientWithList("chatproviders", c.own, parameters, namespace,
		func() *v1alpha1.ChatProvider { return &v1alpha1.ChatProvider{} },
		func() *v1alpha1.ChatProviderList { return &v1alpha1.ChatProviderList{} })
}

// ConfigMaps are those of a namespace, for answers that are kept there.
func (c *Client) ConfigMaps(namespace string) corev1client.ConfigMapInterface {
	return c.core.ConfigMaps(namespace)
}

// Secrets likewise.
func (c *Client) Secrets(namespace string) corev1client.SecretInterface {
	return c.core.Secrets(namespace)
}

var parameters = runtime.NewParameterCodec(parameterScheme())

func parameterScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, v1alpha1.GroupVersion)
	return scheme
}

// Desire sets what is to be done with a run, and returns it.
func (c *Client) Desire(ctx context.Context, namespace, name string, state v1alpha1.DesiredState) (*v1alpha1.ChatRun, error) {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"desiredState": state}})
	if err != nil {
		return nil, err
	}
	return c.Runs(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: Manager})
}

// Manager is who the plugin is in managedFields.
const Manager = "kubectl-chatrun"

// Answer is the text of a run as far as it is kept where one may read it, and whether
// that is all of it.
func (c *Client) Answer(ctx context.Context, run *v1alpha1.ChatRun) (text string, whole bool, err error) {
	out := run.Status.Output
	if out == nil {
		return "", true, nil
	}
	text = out.Text
	switch {
	case out.ConfigMapName != "":
		kept, err := c.ConfigMaps(run.Namespace).Get(ctx, out.ConfigMapName, metav1.GetOptions{})
		if err != nil {
			return text, false, err
		}
		text = kept.Data[v1alpha1.StoredText]
	case out.SecretName != "":
		kept, err := c.Secrets(run.Namespace).Get(ctx, out.SecretName, metav1.GetOptions{})
		if err != nil {
			return text, false, err
		}
		text = string(kept.Data[v1alpha1.StoredText])
	}
	return text, out.Bytes == nil || int64(len(text)) == *out.Bytes, nil
}

// Name gives the objects of a list the names of their kinds, which a typed client takes off.
func Name(list runtime.Object) error {
	return meta.EachListItem(list, func(object runtime.Object) error {
		kinds, _, err := Scheme.ObjectKinds(object)
		if err == nil {
			object.GetObjectKind().SetGroupVersionKind(kinds[0])
		}
		return err
	})
}
